/** Which runs there are: every fault on every store where it makes sense, and pairs of faults. Pure. */

import type { Fault } from './fault/fault.ts';
import { drawPairs } from './fault/pair.ts';
import { Chance } from './random.ts';
import type { StoreKind } from './rig.ts';

export const STORES: readonly StoreKind[] = ['standalone', 'sentinel', 'cluster'];

export interface PlannedRun {
  readonly fault: Fault;
  readonly store: StoreKind;
  readonly seed: number;
}

export interface MatrixOptions {
  readonly faults: readonly Fault[];
  readonly seeds: readonly number[];
  /** Per store and seed. */
  readonly pairs: number;
}

/** Seed by seed, so that a matrix that is stopped early has seen every fault. */
export function matrixOf({ faults, seeds, pairs }: MatrixOptions): readonly PlannedRun[] {
  return seeds.flatMap((seed) => [
    ...faults.flatMap((fault) => fault.stores.map((store) => ({ fault, store, seed }))),
    ...STORES.flatMap((store, i) =>
      drawPairs(faults, store, pairs, seed * STORES.length + i).map((fault) => ({ fault, store, seed })),
    ),
  ]);
}

/** One run that only the seed decides. */
export function runOf(faults: readonly Fault[], seed: number): PlannedRun {
  const chance = new Chance(seed);
  const runs = matrixOf({
    faults: faults.filter(({ beyond }) => beyond !== true),
    seeds: [seed],
    pairs: STORES.length,
  });
  const run = runs[chance.between(0, runs.length - 1)];
  if (run === undefined) throw new RangeError('there are no faults');
  return run;
}
