/** Runs of faults and their judgement, for tests. */

export type { Fault, Reach, Stage } from './fault/fault.ts';
export { FAULTS, killCommand, killEdge } from './fault/faults.ts';
export { type CheckName, check, type Violation } from './history/checker.ts';
export type { CommandView, Entry, History, PlannedCommand } from './history/history.ts';
export { type Numbers, numbersOf, table, tellViolations } from './report.ts';
export { type Pace, type RunOptions, type RunResult, runFault } from './run.ts';
