import { expect, test } from 'vitest';
import { FailureLog } from './failures.ts';

const policy = { beforeDelay: 3, beforeRefusal: 10, capacity: 100 };

test('the first failures of an address are answered at once, later ones ever later up to 5 s (F13)', () => {
  const log = new FailureLog(policy);
  const delays = Array.from({ length: 10 }, () => log.record('10.0.0.1', undefined, 0));
  expect(delays).toEqual([0, 0, 0, 1_000, 2_000, 3_000, 4_000, 5_000, 5_000, 5_000]);
});

test('an address over its limit is refused for the rest of the minute, another one is not (F14, L34)', () => {
  const log = new FailureLog(policy);
  for (let i = 0; i < 10; i++) log.record('10.0.0.1', undefined, 0);
  expect(log.refuses('10.0.0.1', 59_000)).toBe(true);
  expect(log.refuses('10.0.0.2', 59_000)).toBe(false);
  expect(log.refuses('10.0.0.1', 60_001)).toBe(false);
});

test('failures of a code from many addresses slow the answers but never refuse an address (F14)', () => {
  const log = new FailureLog(policy);
  let delay = 0;
  for (let i = 0; i < 50; i++) delay = log.record(`10.0.1.${i}`, 'victim', 0);
  expect(delay).toBe(5_000);
  expect(log.refuses('10.0.1.1', 0)).toBe(false);
});

test('memory is bounded: the oldest entries are forgotten', () => {
  const log = new FailureLog(policy);
  for (let i = 0; i < 10; i++) log.record('first', undefined, 0);
  for (let i = 0; i < 100; i++) log.record(`later-${i}`, undefined, 1);
  expect(log.refuses('first', 2)).toBe(false);
});
