import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DEFAULT_FLAP_GUARD, flapGuard, type TakeOver, takeOver } from './flap-guard.ts';

const gaps = fc.array(fc.integer({ min: 0, max: 30_000 }), { maxLength: 60 });
const guard = flapGuard({ limit: 5, windowMs: 60_000, holdMs: 500 });

/** Take-overs in the same moment, from these addresses; answers what became of the last one. */
function after(...addresses: readonly string[]): ReturnType<typeof takeOver> {
  let recent: readonly TakeOver[] = [];
  for (const address of addresses.slice(0, -1)) {
    const result = takeOver(recent, guard, { atMs: 1_000, address });
    if ('hold' in result) throw new Error(`held at ${address}`);
    recent = result.passed;
  }
  return takeOver(recent, guard, { atMs: 1_000, address: addresses.at(-1) ?? '' });
}

test('no window ever holds more take-overs than the limit, wherever it begins (protocol D8)', () => {
  fc.assert(
    fc.property(gaps, (gapsMs) => {
      let recent: readonly TakeOver[] = [];
      let nowMs = 0;
      const passed: number[] = [];
      for (const gapMs of gapsMs) {
        nowMs += gapMs;
        const result = takeOver(recent, DEFAULT_FLAP_GUARD, { atMs: nowMs, address: '' });
        if ('hold' in result) continue;
        recent = result.passed;
        passed.push(nowMs);
      }
      for (const start of passed) {
        const within = passed.filter((at) => at >= start && at < start + DEFAULT_FLAP_GUARD.windowMs);
        expect(within.length).toBeLessThanOrEqual(DEFAULT_FLAP_GUARD.limit);
      }
    }),
  );
});

test('the first take-over over the limit begins a hold-down of full length', () => {
  expect(after('a', 'a', 'a', 'a', 'a')).toHaveProperty('passed.length', 5);
  expect(after('a', 'a', 'a', 'a', 'a', 'a')).toEqual({
    hold: { reason: 'flapping', untilMs: 1_500, addresses: ['a'] },
  });
});

test('take-overs of a clock that went back since do not count', () => {
  const recent = [1_000, 9_000, 9_001, 9_002, 9_003].map((atMs) => ({ atMs, address: 'a' }));
  expect(takeOver(recent, guard, { atMs: 1_001, address: 'a' })).toHaveProperty('passed.length', 2);
});

test('addresses that take turns are a conflict of two devices; one device that moves is not', () => {
  expect(after('a', 'b', 'a', 'b', 'a', 'b')).toEqual({
    hold: { reason: 'conflict', untilMs: 1_500, addresses: ['a', 'b'] },
  });
  expect(after('a', 'a', 'a', 'a', 'b', 'a')).toHaveProperty('hold.reason', 'conflict');
  expect(after('a', 'a', 'a', 'b', 'b', 'b')).toEqual({
    hold: { reason: 'flapping', untilMs: 1_500, addresses: ['a', 'b'] },
  });
  expect(after('a', 'b', 'c', 'd', 'e', 'f')).toHaveProperty('hold.reason', 'flapping');
});

test('a guard that could let everything or nothing through is refused', () => {
  for (const settings of [{ limit: 0 }, { limit: 61 }, { limit: 1.5 }, { windowMs: 0 }, { holdMs: -1 }]) {
    expect(() => flapGuard(settings)).toThrow(/flap guard/);
  }
});
