/** Fuzzers and their judgement, for tests. */

export { Arena } from './arena.ts';
export type { Finding } from './finding.ts';
export { type RunOptions, type RunResult, runTarget } from './run.ts';
export type { Target } from './target.ts';
export { TARGETS } from './targets.ts';
