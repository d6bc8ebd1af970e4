import { expect, it } from 'vitest';
import { RateLimit } from './rate-limit.ts';

it('a key gets its burst, then its rate, and is told how long to wait', () => {
  const limit = new RateLimit(10, 20, 100);
  for (let i = 0; i < 20; i++) expect(limit.take('a', 0)).toBe(0);
  expect(limit.take('a', 0)).toBe(100);
  expect(limit.take('a', 50)).toBe(50);
  expect(limit.take('a', 100)).toBe(0);
  expect(limit.take('a', 100)).toBe(100);
});

it('one key never pays for another', () => {
  const limit = new RateLimit(1, 1, 100);
  expect(limit.take('a', 0)).toBe(0);
  expect(limit.take('a', 0)).toBeGreaterThan(0);
  expect(limit.take('b', 0)).toBe(0);
});

it('rate 0 limits nothing', () => {
  const limit = new RateLimit(0, 0, 100);
  for (let i = 0; i < 1000; i++) expect(limit.take('a', 0)).toBe(0);
});

it('more keys than its bound drop the one used longest ago, not the newest', () => {
  const limit = new RateLimit(1, 1, 2);
  limit.take('old', 0);
  limit.take('recent', 1);
  limit.take('new', 2);
  expect(limit.take('recent', 3)).toBeGreaterThan(0);
  expect(limit.take('old', 4)).toBe(0);
});
