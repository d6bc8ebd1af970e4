/** The command service as a part of another program, for tests and for the single-machine start. */

export { type CommandService, createCommandService } from './command.ts';
export { type CommandConfig, CommandSettings, readCommandConfig } from './config.ts';
