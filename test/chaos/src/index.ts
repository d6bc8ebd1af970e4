/** Runs of faults and their judgement, for tests. */

export { checkEvents, type EventCheck, type EventViolation } from './event/checker.ts';
export type { EventFault, EventStage } from './event/fault.ts';
export { EVENT_FAULTS, failOver, killCommandOf, killEdgeOf } from './event/faults.ts';
export { type EventNumbers, eventNumbersOf, tellEventViolations } from './event/report.ts';
export { type EventRound, type EventRunOptions, runEventFault } from './event/run.ts';
export type { Fault, Reach, Stage } from './fault/fault.ts';
export { FAULTS, killCommand, killEdge } from './fault/faults.ts';
export { type CheckName, check, type Violation } from './history/checker.ts';
export type { CommandView, Entry, History, PlannedCommand } from './history/history.ts';
export { type Numbers, numbersOf, table, tellViolations } from './report.ts';
export { type Pace, type RunOptions, type RunResult, runFault } from './run.ts';
