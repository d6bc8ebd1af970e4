import { BrokerError } from '@lapi-broker/protocol';
import { expect, it, vi } from 'vitest';
import { GroupLine } from './group-line.ts';

it('a store that is away rejects all who wait at once, not one after the other by its time-out', async () => {
  let looks = 0;
  let fail: (error: unknown) => void = () => undefined;
  const line = new GroupLine({
    handOut: () => {
      looks += 1;
      return new Promise((_, reject) => {
        fail = reject;
      });
    },
    release: async () => undefined,
    listen: async () => undefined,
    monotonicMs: () => 0,
  });
  const pulls = [0, 0, 20_000].map((waitMs) => line.pull({ max: 1, waitMs }));
  fail(new BrokerError('broker_unavailable', 'away'));
  const ended = await Promise.allSettled(pulls);
  expect(ended.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  expect(looks).toBe(1);
});

interface Looks {
  count: number;
  tell: () => void;
}

/** A line whose looks find nothing, and when something may be there. */
function emptyLine(againMs: number | undefined, hears: boolean): { line: GroupLine; looks: Looks } {
  const looks: Looks = { count: 0, tell: () => undefined };
  const line = new GroupLine({
    handOut: async () => {
      looks.count += 1;
      return { deliveries: [], againMs, outdated: false };
    },
    release: async () => undefined,
    listen: async (onEvent) => {
      looks.tell = onEvent;
      return hears ? () => undefined : undefined;
    },
    monotonicMs: () => performance.now(),
  });
  return { line, looks };
}

it.each([
  ['seldom when nothing is out and new events are heard', undefined, true, 4],
  ['often when another consumer may acknowledge what is in the way', 60_000, true, 22],
  ['often when new events are not heard', undefined, false, 22],
])('a consumer that waits makes the line look %s', async (_, againMs, hears, most) => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  try {
    const { line, looks } = emptyLine(againMs, hears);
    const pull = line.pull({ max: 1, waitMs: 10_000 });
    await vi.advanceTimersByTimeAsync(10_100);
    expect(await pull).toEqual([]);
    expect(looks.count).toBeLessThanOrEqual(most);
    expect(looks.count).toBeGreaterThan(most / 2);
  } finally {
    vi.useRealTimers();
  }
});

it('a consumer that waits makes the line look at once when an event is heard', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  try {
    const { line, looks } = emptyLine(undefined, true);
    const pull = line.pull({ max: 1, waitMs: 4_000 });
    await vi.advanceTimersByTimeAsync(1_000);
    const before = looks.count;
    looks.tell();
    await vi.advanceTimersByTimeAsync(1);
    expect(looks.count).toBe(before + 1);
    line.stop();
    await pull;
  } finally {
    vi.useRealTimers();
  }
});
