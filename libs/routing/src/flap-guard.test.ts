import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DEFAULT_FLAP_GUARD, flapGuard, NO_TAKE_OVERS, takeOver } from './flap-guard.ts';

const gaps = fc.array(fc.integer({ min: 0, max: 30_000 }), { maxLength: 60 });

test('no window ever holds more take-overs than the limit, wherever it begins (protocol D8)', () => {
  fc.assert(
    fc.property(gaps, (gapsMs) => {
      let state = NO_TAKE_OVERS;
      let nowMs = 0;
      const passed: number[] = [];
      for (const gapMs of gapsMs) {
        nowMs += gapMs;
        const result = takeOver(state, DEFAULT_FLAP_GUARD, nowMs);
        state = result.state;
        if (result.refusedMs === 0) passed.push(nowMs);
      }
      for (const start of passed) {
        const within = passed.filter((at) => at >= start && at < start + DEFAULT_FLAP_GUARD.windowMs);
        expect(within.length).toBeLessThanOrEqual(DEFAULT_FLAP_GUARD.limit);
      }
    }),
  );
});

test('the first take-over over the limit starts a hold-down of full length; it ends by itself', () => {
  const guard = flapGuard({ limit: 1, holdMs: 500 });
  const first = takeOver(NO_TAKE_OVERS, guard, 0);
  const second = takeOver(first.state, guard, 1);
  expect(second.refusedMs).toBe(500);
  expect(takeOver(second.state, guard, 500).refusedMs).toBe(1);
  expect(takeOver(second.state, guard, 501).refusedMs).toBe(0);
});

test('a guard that could let everything or nothing through is refused', () => {
  for (const settings of [{ limit: 0 }, { limit: 61 }, { limit: 1.5 }, { windowMs: 0 }, { holdMs: -1 }]) {
    expect(() => flapGuard(settings)).toThrow(/flap guard/);
  }
});
