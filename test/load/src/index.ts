/** The measurements, for those who run them from code. */

export { type CommandOptions, measureCommand } from './measurement/command.ts';
export { type IdleOptions, measureIdle } from './measurement/idle.ts';
export { measureRegister, type RegisterOptions } from './measurement/register.ts';
