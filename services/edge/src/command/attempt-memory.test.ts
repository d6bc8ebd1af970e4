import type { CommandId } from '@lapi-broker/protocol';
import { expect, test } from 'vitest';
import { MAX_REMEMBERED_ATTEMPTS } from '../limits.ts';
import { AttemptMemory } from './attempt-memory.ts';

const id = (i: number): CommandId => `00${i}` as CommandId;

test('an attempt that was written is known, and every earlier one; a later one is not (I7)', () => {
  const memory = new AttemptMemory();
  expect(memory.has(id(1), 1, 1)).toBe(false);
  memory.wrote(id(1), 2);
  expect([1, 2, 3].map((attempt) => memory.has(id(1), attempt, 2))).toEqual([true, true, false]);
});

test('a store that counts no more writes than were made here has forgotten one, whatever number the attempt has (I7)', () => {
  const memory = new AttemptMemory();
  memory.wrote(id(1), 2);
  expect(memory.has(id(1), 5, 1)).toBe(true);
  expect(memory.has(id(1), 5, 2)).toBe(false);
  memory.wrote(id(1), 5);
  expect([2, 3].map((writes) => memory.has(id(1), 6, writes))).toEqual([true, false]);
});

test('the memory is bounded, and what was written last is kept', () => {
  const memory = new AttemptMemory();
  for (let i = 0; i < MAX_REMEMBERED_ATTEMPTS; i++) memory.wrote(id(i), 1);
  memory.wrote(id(1), 2);
  memory.wrote(id(-1), 1);
  expect([0, 1, 2, -1].map((i) => memory.has(id(i), 1, 2))).toEqual([false, true, true, true]);
});
