export { type Clock, systemClock } from './clock.ts';
export {
  acceptedBy,
  ConfigError,
  type ConfigProblem,
  type ConfigVariable,
  configHelp,
  describeConfig,
  readConfig,
  secret,
} from './config.ts';
export { Lifecycle, type LifecycleLog, type LifecycleOptions, type LifecycleState, type Part } from './lifecycle.ts';
export { type ProcessLog, type ProcessOptions, runProcess } from './run-process.ts';
export { underSignals } from './signals.ts';
