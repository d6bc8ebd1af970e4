import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import { underSignals } from './signals.ts';

test('work is told when the first of its signals aborts, also one that had aborted before', async () => {
  const [a, b] = [new AbortController(), new AbortController()];
  await underSignals([a.signal, b.signal], async (signal) => {
    expect(signal.aborted).toBe(false);
    b.abort();
    expect(signal.aborted).toBe(true);
  });
  await underSignals([a.signal, b.signal], async (signal) => expect(signal.aborted).toBe(true));
});

test('nothing stays at a signal when the work has ended or failed', async () => {
  const { signal } = new AbortController();
  expect(await underSignals([signal], async () => 7)).toBe(7);
  await expect(underSignals([signal], () => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});
