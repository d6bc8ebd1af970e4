import { describe, expect, test } from 'vitest';
import { gist, shortest } from './shortest.ts';

describe('the shortest part of a history', () => {
  const entries = Array.from({ length: 200 }, (_, i) => i);

  test('keeps what a violation needs, wherever it stands, and nothing else', () => {
    const needed = [3, 77, 78, 199];
    const shows = (some: readonly number[]): boolean => needed.every((each) => some.includes(each));
    expect(shortest(entries, shows)).toEqual(needed);
  });

  test('keeps the order', () => {
    const shows = (some: readonly number[]): boolean => some.indexOf(10) >= 0 && some.indexOf(10) < some.indexOf(90);
    expect(shortest(entries, shows)).toEqual([10, 90]);
  });

  test('is all of it where a part cannot show the violation', () => {
    expect(shortest(entries, () => false)).toEqual(entries);
  });

  test('two statements that differ in numbers only say the same', () => {
    expect(gist('waited 8795 ms')).toBe(gist('waited 12 ms'));
    expect(gist('waited 8795 ms')).not.toBe(gist('received 2 times'));
  });
});
