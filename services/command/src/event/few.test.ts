import { expect, test } from 'vitest';
import { Few } from './few.ts';

test('no more work than allowed runs at once, all of it runs in order, and work that fails makes room as well', async () => {
  const few = new Few(2);
  const ends: (() => void)[] = [];
  const begun: number[] = [];
  const all = Array.from({ length: 5 }, (_, i) =>
    few.run(async () => {
      begun.push(i);
      await new Promise<void>((resolve) => ends.push(resolve));
      if (i === 0) throw new Error('failed');
      return i;
    }),
  );
  const results = Promise.allSettled(all);
  for (let i = 0; i < 5; i++) {
    await new Promise(setImmediate);
    expect(begun.length).toBe(Math.min(5, i + 2));
    ends[i]?.();
  }
  expect((await results).map(({ status }) => status)).toEqual(['rejected', ...Array(4).fill('fulfilled')]);
  expect(begun).toEqual([0, 1, 2, 3, 4]);
});
