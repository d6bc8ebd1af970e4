import { describe, expect, test } from 'vitest';
import { FAULTS, faultNamed } from './fault/faults.ts';
import { pairOf } from './fault/pair.ts';
import { matrixOf, runOf } from './matrix.ts';

describe('the matrix', () => {
  test('has each fault on each store where it makes sense, for each seed, and pairs', () => {
    const runs = matrixOf({ faults: FAULTS, seeds: [1, 2], pairs: 3 });
    const places = FAULTS.reduce((sum, { stores }) => sum + stores.length, 0);
    expect(runs).toHaveLength(2 * (places + 3 * 3));
    expect(runs.every(({ fault, store }) => fault.stores.includes(store))).toBe(true);
  });

  test('names are unique, and each run can be asked for by name', () => {
    expect(new Set(FAULTS.map(({ name }) => name)).size).toBe(FAULTS.length);
    for (const { fault } of matrixOf({ faults: FAULTS, seeds: [5], pairs: 4 })) {
      expect(faultNamed(fault.name)?.name).toBe(fault.name);
    }
  });

  test('the seed alone decides', () => {
    const names = (seed: number): string => `${runOf(FAULTS, seed).fault.name} ${runOf(FAULTS, seed).store}`;
    expect(names(7)).toBe(names(7));
    expect(new Set(Array.from({ length: 20 }, (_, i) => names(i))).size).toBeGreaterThan(5);
  });

  test('two faults of the same party are no pair, nor is one that is beyond the promises', () => {
    const pair = (a: string, b: string) => {
      const [first, second] = [faultNamed(a), faultNamed(b)];
      return first === undefined || second === undefined ? undefined : pairOf(first, second)?.stores;
    };
    expect(pair('edge-kill', 'edge-pause-long')).toBeUndefined();
    expect(pair('edge-kill', 'confirmed-lost')).toBeUndefined();
    expect(pair('edge-kill', 'cluster-loss')).toEqual(['cluster']);
  });
});
