import type { CommandId } from '@lapi-broker/protocol';
import { expect, test } from 'vitest';
import { MAX_REMEMBERED_ATTEMPTS } from '../limits.ts';
import { AttemptMemory } from './attempt-memory.ts';

const id = (i: number): CommandId => `00${i}` as CommandId;

test('an attempt that was written is known, and every earlier one; a later one is not (I7)', () => {
  const memory = new AttemptMemory();
  expect(memory.has(id(1), 1)).toBe(false);
  memory.wrote(id(1), 2);
  expect([1, 2, 3].map((attempt) => memory.has(id(1), attempt))).toEqual([true, true, false]);
});

test('the memory is bounded, and what was written last is kept', () => {
  const memory = new AttemptMemory();
  for (let i = 0; i < MAX_REMEMBERED_ATTEMPTS; i++) memory.wrote(id(i), 1);
  memory.wrote(id(1), 2);
  memory.wrote(id(-1), 1);
  expect([0, 1, 2, -1].map((i) => memory.has(id(i), 1))).toEqual([false, true, true, true]);
});
