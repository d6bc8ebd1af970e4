import type { Trimmed } from '@lapi-broker/bus';
import { waitFor } from '@lapi-broker/fixture';
import { afterEach, expect, test } from 'vitest';
import { EventRetention } from './retention.ts';

const parts: EventRetention[] = [];
afterEach(async () => {
  for (const part of parts.splice(0)) await part.stop();
});

function rig(trim: (shard: number, maxAgeMs?: number) => Promise<Trimmed>): {
  part: EventRetention;
  failures: unknown[];
} {
  const failures: unknown[] = [];
  const part = new EventRetention({
    stream: { shards: 4, trim },
    maxAgeMs: 300_000,
    intervalMs: 4,
    onFailure: (error) => failures.push(error),
  });
  parts.push(part);
  return { part, failures };
}

test('each shard is trimmed in its turn, and what is left of all of them is known', async () => {
  const turns: number[] = [];
  const { part } = rig((shard) => {
    turns.push(shard);
    return Promise.resolve({ trimmed: 0, entries: shard, bytes: 100 * shard });
  });
  expect([part.entries, part.bytes]).toEqual([0, 0]);
  part.start();
  part.start();
  await waitFor(() => turns.length >= 8, { deadlineMs: 10_000, what: 'two rounds' });
  expect(turns.slice(0, 8)).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
  expect([part.entries, part.bytes]).toEqual([6, 600]);
});

test('a shard that cannot be trimmed is counted and gets its next turn; what it last had left stays known', async () => {
  let turns = 0;
  const { part, failures } = rig((shard) => {
    turns++;
    if (shard === 1 && turns > 4) return Promise.reject(new Error('store away'));
    return Promise.resolve({ trimmed: 0, entries: 1, bytes: 1 });
  });
  part.start();
  await waitFor(() => failures.length >= 2, { deadlineMs: 10_000, what: 'two failures' });
  expect(part.entries).toBe(4);
});

test('while memory is tight each round keeps events half as long, down to a minute; with room the time comes back', async () => {
  const kept: (number | undefined)[] = [];
  const { part } = rig((shard, maxAgeMs) => {
    if (shard === 0) {
      kept.push(maxAgeMs);
      part.tighten(kept.length > 1 && kept.length < 6);
    }
    return Promise.resolve({ trimmed: 0, entries: 0, bytes: 0 });
  });
  part.start();
  await waitFor(() => kept.length >= 10, { deadlineMs: 10_000, what: 'ten rounds' });
  expect(kept.slice(0, 10).map((ms) => Number(ms) / 1_000)).toEqual([300, 300, 150, 75, 60, 60, 120, 240, 300, 300]);
});

test('a stop waits for the turn under way, and none follows', async () => {
  let turns = 0;
  let release: () => void = () => undefined;
  const { part } = rig(async () => {
    turns++;
    await new Promise<void>((resolve) => {
      release = resolve;
    });
    return { trimmed: 0, entries: 0, bytes: 0 };
  });
  part.start();
  await waitFor(() => turns === 1, { deadlineMs: 10_000, what: 'the first turn' });
  let stopped: boolean = false;
  const stopping = part.stop().then(() => {
    stopped = true;
  });
  await new Promise(setImmediate);
  expect(stopped).toBe(false);
  release();
  await stopping;
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(turns).toBe(1);
});
