import { expect, test } from 'vitest';
import { type Timed, Wheel } from './wheel.ts';

const entry = (): Timed => ({ wheelSlot: -1, dueMs: 0 });

test('an entry is looked at once its time has come, not before', () => {
  const wheel = new Wheel<Timed>(50, 1_000);
  const one = entry();
  wheel.lookAt(one, 1_500);
  const seen: number[] = [];
  const look = (_: Timed, now: number): number => seen.push(now) && Number.POSITIVE_INFINITY;
  for (let now = 1_000; now <= 1_450; now += 50) wheel.advance(now, look);
  expect(seen).toEqual([]);
  wheel.advance(1_500, look);
  expect(seen).toEqual([1_500]);
  wheel.advance(60_000, look);
  expect(seen).toHaveLength(1);
});

test('an earlier time moves an entry forward, a later one does not move it back', () => {
  const wheel = new Wheel<Timed>(50, 0);
  const one = entry();
  wheel.lookAt(one, 10_000);
  wheel.lookAt(one, 500);
  wheel.lookAt(one, 20_000);
  let looks = 0;
  wheel.advance(600, () => {
    looks++;
    return Number.POSITIVE_INFINITY;
  });
  expect(looks).toBe(1);
});

test('a time beyond the reach of the wheel is kept until it comes', () => {
  const wheel = new Wheel<Timed>(50, 0);
  const one = entry();
  wheel.lookAt(one, 200_000);
  let looks = 0;
  for (let now = 0; now < 199_950; now += 1_000) {
    wheel.advance(now, () => {
      looks++;
      return Number.POSITIVE_INFINITY;
    });
  }
  expect(looks).toBe(0);
  wheel.advance(200_100, () => {
    looks++;
    return Number.POSITIVE_INFINITY;
  });
  expect(looks).toBe(1);
});

test('a removed entry is never looked at', () => {
  const wheel = new Wheel<Timed>(50, 0);
  const one = entry();
  wheel.lookAt(one, 100);
  wheel.remove(one);
  wheel.advance(1_000, () => {
    throw new Error('looked at a removed entry');
  });
});

test('after a long pause every due entry is looked at once', () => {
  const wheel = new Wheel<Timed>(50, 0);
  const entries = Array.from({ length: 100 }, entry);
  for (const [i, one] of entries.entries()) wheel.lookAt(one, i * 400);
  const seen = new Map<Timed, number>();
  wheel.advance(1_000_000, (one) => {
    seen.set(one, (seen.get(one) ?? 0) + 1);
    return Number.POSITIVE_INFINITY;
  });
  expect(seen.size).toBe(100);
  expect([...seen.values()].every((n) => n === 1)).toBe(true);
});
