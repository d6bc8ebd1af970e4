import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createSweepLock, ImageRetention, type ImageRetentionOptions } from './retention.ts';

let server: RedisServer;
let redis: RedisConnection;
beforeAll(async () => {
  server = await startRedis();
  redis = openConnection({ url: server.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(redis, 5_000);
});
afterAll(async () => {
  await closeConnection(redis);
  await server.stop();
});

let asked: string[];
let failures: number;
beforeEach(() => {
  asked = [];
  failures = 0;
});

function retention(options: Partial<ImageRetentionOptions> = {}): ImageRetention {
  return new ImageRetention({
    store: {
      sweep: (beforeHour) => {
        asked.push(beforeHour);
        return Promise.resolve(0);
      },
    },
    hours: 24,
    intervalMs: 40,
    lock: () => Promise.resolve(true),
    nowMs: () => Date.UTC(2026, 2, 2, 12, 59),
    random: () => 1,
    onSwept: () => undefined,
    onFailure: () => {
      failures++;
    },
    log: { info: () => undefined, warn: () => undefined },
    ...options,
  });
}

test('a picture is kept for its whole time: what goes are hours that ended before it', async () => {
  const part = retention();
  part.start();
  await waitFor(() => asked.length >= 2, { deadlineMs: 5_000, what: 'two sweeps' });
  await part.stop();
  expect(new Set(asked)).toEqual(new Set(['2026030112']));
});

test('one process sweeps while several look, and another one when that has gone', async () => {
  const keyspace = createKeyspace('sweep', 1);
  const sweeps = [0, 0];
  const parts = [0, 1].map((i) =>
    retention({
      // Longer than the test: the first to take it keeps it until it is gone.
      lock: () => createSweepLock(redis, keyspace, `c${i}`)(60_000),
      store: {
        sweep: () => {
          sweeps[i] = (sweeps[i] ?? 0) + 1;
          return Promise.resolve(0);
        },
      },
    }),
  );
  for (const part of parts) part.start();
  await waitFor(() => sweeps.some((count) => count > 0), { deadlineMs: 5_000, what: 'a sweep' });
  expect(sweeps.reduce((sum, count) => sum + count)).toBe(1);
  await parts[sweeps.indexOf(1)]?.stop();
  await redis.del(keyspace.lock('images'));
  await waitFor(() => sweeps.every((count) => count > 0), { deadlineMs: 5_000, what: 'the other one' });
  for (const part of parts) await part.stop();
});

test('a store that is away is counted and asked again', async () => {
  const part = retention({ store: { sweep: () => Promise.reject(new Error('away')) } });
  part.start();
  await waitFor(() => failures >= 2, { deadlineMs: 5_000, what: 'two failures' });
  await part.stop();
  await part.stop();
});

test('stop ends a sweep that is under way', async () => {
  let began = false;
  const part = retention({
    store: {
      sweep: (_, signal) =>
        new Promise((_resolve, reject) => {
          began = true;
          signal.addEventListener('abort', () => reject(signal.reason));
        }),
    },
  });
  part.start();
  await waitFor(() => began, { deadlineMs: 5_000, what: 'a sweep' });
  await part.stop();
  expect(failures).toBe(0);
});
