/** Runs of faults and their judgement, for tests. */

export { killCommand } from './fault/command.ts';
export { killEdge } from './fault/edge.ts';
export type { Fault, Reach, Stage } from './fault/fault.ts';
export { CONTROL, FAULTS, faultNamed } from './fault/faults.ts';
export { failOver } from './fault/store.ts';
export type { Violation } from './judge.ts';
export { type Numbers, numbersOf, table, tellViolations } from './report.ts';
export { type Load, type Pace, type RunOptions, type RunResult, runFault } from './run.ts';
