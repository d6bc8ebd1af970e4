import { expect, test } from 'vitest';
import { countEnds, isMisbehaviour, QUARANTINE } from './quarantine.ts';

test('ends count for the length of the window, and the newest always', () => {
  const quarantine = { ...QUARANTINE, windowMs: 100 };
  expect(countEnds([], quarantine, 1_000)).toEqual([1_000]);
  expect(countEnds([900, 901, 1_000], quarantine, 1_000)).toEqual([901, 1_000, 1_000]);
  expect(countEnds([999, 1_000, 9_000], quarantine, 999)).toEqual([999, 999]);
});

test('what the network, the broker or an operator ends is no misbehaviour', () => {
  for (const reason of ['closed', 'liveness_timeout', 'draining', 'rebalanced', 'revoked', 'fenced'] as const) {
    expect(isMisbehaviour(reason)).toBe(false);
  }
  for (const reason of ['overflow', 'bad_json', 'unmasked'] as const) expect(isMisbehaviour(reason)).toBe(true);
});
