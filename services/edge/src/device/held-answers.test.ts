import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { HeldAnswers } from './held-answers.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('as many answers as there is room for are held, the next goes out at once, and one that is given makes room', () => {
  const held = new HeldAnswers(2);
  const given: string[] = [];
  const hold = (name: string, delayMs: number): boolean => held.hold(delayMs, () => given.push(name));
  expect([hold('a', 1_000), hold('b', 4_000), hold('beyond', 1_000), hold('no delay', 0)]).toEqual([
    true,
    true,
    false,
    false,
  ]);
  expect(given).toEqual(['beyond', 'no delay']);
  vi.advanceTimersByTime(1_000);
  expect(given.at(-1)).toBe('a');
  expect(hold('c', 500)).toBe(true);
  vi.advanceTimersByTime(3_000);
  expect(given.slice(-2)).toEqual(['c', 'b']);
});

test('nothing is given after the stop', () => {
  const held = new HeldAnswers(2);
  let given = 0;
  held.hold(1_000, () => given++);
  held.stop();
  vi.advanceTimersByTime(5_000);
  expect(given).toBe(0);
});
