/** When what failed is sent again. */

import { expect, test } from 'vitest';
import { askedRestMs, readRetryAfter, retryDelayMs } from './retry.ts';

const HOUR_MS = 3_600_000;

test('steps double from 5 s to an hour, and 20 attempts take about 10 hours', () => {
  const steps = Array.from({ length: 19 }, (_, i) => retryDelayMs(i + 1, 0, 0.5));
  expect(steps.slice(0, 4)).toEqual([5_000, 10_000, 20_000, 40_000]);
  expect(steps.at(-1)).toBe(HOUR_MS);
  const hours = steps.reduce((sum, ms) => sum + ms, 0) / HOUR_MS;
  expect(hours).toBeGreaterThan(9);
  expect(hours).toBeLessThan(11);
});

test('chance moves each step by half at most', () => {
  for (const attempt of [1, 7, 100]) {
    const middle = retryDelayMs(attempt, 0, 0.5);
    expect(retryDelayMs(attempt, 0, 0)).toBe(middle / 2);
    expect(retryDelayMs(attempt, 0, 0.999)).toBeGreaterThan(middle * 1.49);
  }
});

test('a receiver that asks for more time gets it, up to an hour, and cannot ask for less', () => {
  const asked = (code: number, retryAfterMs: number): number => askedRestMs({ status: 'answered', code, retryAfterMs });
  expect(asked(429, 60_000)).toBe(60_000);
  expect(asked(503, 60_000)).toBe(60_000);
  expect(asked(500, 60_000)).toBe(0);
  expect(asked(503, 100 * HOUR_MS)).toBe(HOUR_MS);
  expect(askedRestMs({ status: 'failed', error: 'timeout' })).toBe(0);
  expect(retryDelayMs(1, 60_000, 0.5)).toBe(60_000);
  expect(retryDelayMs(5, 1_000, 0.5)).toBe(80_000);
});

test('Retry-After is seconds or a date', () => {
  const nowMs = Date.UTC(2026, 2, 1);
  expect(readRetryAfter('120', nowMs)).toBe(120_000);
  expect(readRetryAfter('Sun, 01 Mar 2026 00:01:00 GMT', nowMs)).toBe(60_000);
  expect(readRetryAfter('Sun, 01 Mar 2020 00:01:00 GMT', nowMs)).toBe(0);
  for (const header of [undefined, '', 'soon', '-5', '1e9', '99999999999']) {
    expect([undefined, 0]).toContain(readRetryAfter(header, nowMs));
  }
});
