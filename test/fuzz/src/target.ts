/** What is fuzzed: one way in, with an endless row of inputs and a judgement of each. */

import type { Arena } from './arena.ts';
import type { Chance } from './chance.ts';

/** What became of one input. */
export interface Verdict {
  /** A class of outcomes, to be counted. */
  readonly outcome: string;
  /** What was wrong. */
  readonly fault?: string;
  readonly input?: string | Buffer;
}

export interface TargetRun {
  /** Makes one input, sends it, judges what comes of it. Draws from `chance` only what makes the input. */
  send(chance: Chance): Promise<Verdict>;
  stop(): Promise<void>;
}

export interface Target {
  readonly name: string;
  readonly about: string;
  /** Inputs of a run that names no number. */
  readonly inputs: number;
  /** Inputs under way at a time. */
  readonly atOnce: number;
  begin(arena: Arena, inputs: number): Promise<TargetRun>;
}
