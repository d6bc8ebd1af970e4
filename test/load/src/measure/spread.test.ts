import { expect, test } from 'vitest';
import { percentile, ratioOf, slopeOf, spreadOf } from './spread.ts';

test('the median of an even number of rounds lies between the two in the middle', () => {
  expect(spreadOf([4, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 4 });
  expect(spreadOf([7])).toEqual({ median: 7, min: 7, max: 7 });
});

test('no round is no figure', () => {
  expect(() => spreadOf([])).toThrow(RangeError);
  expect(() => ratioOf([1, 2], [1])).toThrow(RangeError);
});

test('a ratio is taken round by round, so a slow round does not count against one side only', () => {
  expect(ratioOf([2, 20], [1, 10])).toEqual({ median: 2, min: 2, max: 2 });
});

test('a percentile is a value that occurred', () => {
  const values = Float64Array.from({ length: 100 }, (_, i) => i + 1);
  expect([percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)]).toEqual([50, 99, 100]);
  expect(percentile([], 0.5)).toBeNaN();
});

test('the slope tells what each further one costs, whatever the first one cost', () => {
  const points = [0, 1000, 2000].map((x) => [x, 5000 + 1.5 * x] as const);
  expect(slopeOf(points)).toBeCloseTo(1.5, 10);
});
