/** The measurements, for those who run them from code. */

export { type CommandOptions, measureCommand } from './measurement/command.ts';
