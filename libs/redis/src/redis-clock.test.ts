import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RedisClock } from './redis-clock.ts';

test('before the first exchange the time is unknown, not guessed', () => {
  const clock = new RedisClock(() => 5);
  expect(clock.known).toBe(false);
  expect(clock.maxErrorMs()).toBe(Number.POSITIVE_INFINITY);
  expect(() => clock.nowMs()).toThrow(expect.objectContaining({ code: 'broker_unavailable' }));
});

test('the estimate is never further from Redis time than it says, whatever the delays and the drift', () => {
  const exchange = fc.record({
    pauseMs: fc.double({ min: 0, max: 5000, noNaN: true }),
    upMs: fc.double({ min: 0, max: 2, noNaN: true }),
    downMs: fc.double({ min: 0, max: 2, noNaN: true }),
  });
  fc.assert(
    fc.property(
      fc.array(exchange, { minLength: 1, maxLength: 30 }),
      fc.double({ min: -500e-6, max: 500e-6, noNaN: true }),
      (exchanges, drift) => {
        let now = 1000;
        const redis = (): number => 1_700_000_000_000 + now * (1 + drift);
        const clock = new RedisClock(() => now);
        for (const { pauseMs, upMs, downMs } of exchanges) {
          now += pauseMs;
          if (clock.known) expect(Math.abs(clock.nowMs() - redis())).toBeLessThanOrEqual(clock.maxErrorMs() + 1e-3);
          const sent = now;
          now += upMs;
          const told = Math.floor(redis());
          now += downMs;
          clock.observe(told, sent, now);
          expect(Math.abs(clock.nowMs() - redis())).toBeLessThanOrEqual(clock.maxErrorMs() + 1e-3);
        }
      },
    ),
  );
});

test('several exchanges narrow the error below that of the quickest one', () => {
  const clock = new RedisClock(() => 100);
  clock.observe(1_000_090, 80, 100);
  const once = clock.maxErrorMs();
  clock.observe(1_000_099, 80, 100);
  expect(clock.maxErrorMs()).toBeLessThan(once);
});

test('when another server answers with another time, the newest exchange counts', () => {
  let now = 1000;
  const clock = new RedisClock(() => now);
  clock.observe(1_000_000, 999, 1000);
  now = 2000;
  clock.observe(5_000_000, 1999, 2000);
  expect(Math.abs(clock.nowMs() - 5_000_000)).toBeLessThan(2);
  expect(clock.maxErrorMs()).toBeLessThan(2);
});
