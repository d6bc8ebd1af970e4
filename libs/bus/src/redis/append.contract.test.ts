/** How events get their numbers on a real Redis: whoever appends, whatever happens to the clock and the memory. What replicas and failovers do
 *  to them: faults.contract.test.ts. */

import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { eventOf } from '../contract/event-stream.ts';
import { entryNumber, ZERO_ID } from '../event-stream.ts';
import { RedisEventStream, type RedisEventStreamOptions } from './redis-event-stream.ts';

let redis: RedisServer;
let prefixes = 0;
const cleanups: (() => Promise<void>)[] = [];

beforeAll(async () => {
  redis = await startRedis();
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
afterAll(async () => {
  await redis.stop();
});

async function connect(): Promise<RedisConnection> {
  const connection = openConnection({ url: redis.url, commandTimeoutMs: 5_000 }, 'state');
  cleanups.push(() => closeConnection(connection));
  await ready(connection, 10_000);
  return connection;
}

/** A stream of one shard. */
function openStream(state: RedisConnection, prefix: string, options: Partial<RedisEventStreamOptions> = {}) {
  const keyspace = createKeyspace(prefix, 1);
  const stream = new RedisEventStream({ state, keyspace, ...options });
  cleanups.push(() => stream.stop());
  return { stream, key: keyspace.events(0), count: `${keyspace.events(0)}:count` };
}

const upTo = (last: number): readonly number[] => Array.from({ length: last }, (_, i) => i + 1);
const newPrefix = (): string => `append${++prefixes}`;

test('several processes that append at once share one row of numbers, and each event gets the id that it is answered with', async () => {
  const prefix = newPrefix();
  const writers = await Promise.all(upTo(4).map(async () => openStream(await connect(), prefix).stream));
  const answered = new Map<string, string>();
  await Promise.all(
    writers.map(async (writer, w) => {
      for (let round = 0; round < 20; round++) {
        await Promise.all(
          upTo(10).map(async (i) => {
            const code = `cam-${w}-${round}-${i}`;
            answered.set(await writer.append(eventOf(code, 1)), code);
          }),
        );
      }
    }),
  );
  const entries = (await writers[0]?.read(0, ZERO_ID, 10_000)) ?? [];
  expect(entries.map(({ id }) => entryNumber(id))).toEqual(upTo(800));
  expect(entries.map(({ id, event }) => [id, event.code])).toEqual(entries.map(({ id }) => [id, answered.get(id)]));
});

test('when the clock goes back the ids go on growing, in the ms of the last entry', async () => {
  const state = await connect();
  const { stream, count } = openStream(state, newPrefix());
  const first = await stream.append(eventOf('cam-1', 1));
  const aheadMs = Number.parseInt(first, 10) + 3_600_000;
  // What a clock that was an hour ahead has left behind.
  await state.hset(count, 't', aheadMs);
  expect(await stream.append(eventOf('cam-1', 2))).toBe(`${aheadMs}-2`);
  expect(await stream.append(eventOf('cam-1', 3))).toBe(`${aheadMs}-3`);
});

test('a stream that is ahead of its counter is numbered on from its last entry', async () => {
  const state = await connect();
  const { stream, key, count } = openStream(state, newPrefix());
  await stream.append(eventOf('cam-1', 1));
  const aheadMs = Date.now() + 3_600_000;
  await state.xadd(key, `${aheadMs}-7`, 'c', 'cam-1');
  expect(await stream.append(eventOf('cam-1', 2))).toBe(`${aheadMs}-8`);
  await state.del(count);
  expect(await stream.append(eventOf('cam-1', 3))).toBe(`${aheadMs}-9`);
  expect(await state.hmget(count, 'n', 't')).toEqual(['9', String(aheadMs)]);
});

test('a stream that has lost its counter goes on with the next number, and with what its marks say of its bytes', async () => {
  const state = await connect();
  const { stream, count } = openStream(state, newPrefix(), {
    retention: { maxAgeMs: 3_600_000, maxBytes: 64 * 1_256 },
  });
  const body = 'x'.repeat(1_000);
  for (let seq = 1; seq <= 100; seq++) await stream.append(eventOf('cam-1', seq, body));
  await state.del(count);
  for (let seq = 101; seq <= 103; seq++) {
    expect(entryNumber(await stream.append(eventOf('cam-1', seq, body)))).toBe(seq);
    expect((await stream.bounds(0)).length).toBe(64);
  }
});

test('a full Redis refuses events and gives out no number for them, but is trimmed', async () => {
  const state = await connect();
  const { stream } = openStream(state, newPrefix(), { retention: { maxAgeMs: 1, maxBytes: 2 ** 20 } });
  await stream.append(eventOf('cam-1', 1));
  cleanups.push(async () => void (await redis.command('CONFIG', 'SET', 'maxmemory', 0)));
  await redis.command('CONFIG', 'SET', 'maxmemory', 1);
  await expect(stream.append(eventOf('cam-1', 2))).rejects.toMatchObject({ code: 'broker_unavailable' });
  await waitFor(async () => (await stream.trim(0)).entries === 0, { deadlineMs: 5_000, what: 'the trim' });
  await redis.command('CONFIG', 'SET', 'maxmemory', 0);
  expect(entryNumber(await stream.append(eventOf('cam-1', 3)))).toBe(2);
});

test('what is too old goes to the last entry, not by whole nodes of the stream', async () => {
  const state = await connect();
  const { stream, count } = openStream(state, newPrefix(), { retention: { maxAgeMs: 1, maxBytes: 2 ** 20 } });
  for (let seq = 1; seq <= 5; seq++) await stream.append(eventOf('cam-1', seq));
  await state.hset(count, 't', Date.now() + 3_600_000);
  const young = await stream.append(eventOf('cam-1', 6));
  for (let seq = 7; seq <= 10; seq++) await stream.append(eventOf('cam-1', seq));
  await waitFor(async () => (await stream.trim(0)).entries === 5, { deadlineMs: 5_000, what: 'the trim' });
  expect(await stream.bounds(0)).toMatchObject({ first: young, added: 10, length: 5 });
});

test('what others have added without a mark is trimmed in small steps, and as few marks are kept as the limit needs', async () => {
  const state = await connect();
  const { stream, key } = openStream(state, newPrefix());
  const body = 'x'.repeat(10);
  await Promise.all(upTo(25_000).map((seq) => stream.append(eventOf('cam-1', seq, body))));
  const small = openStream(state, key.slice(0, key.indexOf(':')), {
    retention: { maxAgeMs: 3_600_000, maxBytes: 64 * 266 },
  });
  expect((await stream.bounds(0)).length).toBe(25_000);
  expect(await small.stream.trim(0)).toMatchObject({ trimmed: 24_999, entries: 1 });
  const { last } = await small.stream.bounds(0);
  expect(await small.stream.bounds(0)).toEqual({ last, first: last, added: 25_000, length: 1 });
  for (let i = 0; i < 200; i++) await small.stream.append(eventOf('cam-1', i, body));
  expect((await small.stream.bounds(0)).length).toBe(64);
  expect(await state.zcard(`${key}:marks`)).toBeLessThanOrEqual(66);
});

test('a script that the server has forgotten is loaded again, and the order of the events stays', async () => {
  const state = await connect();
  const { stream } = openStream(state, newPrefix());
  const appended: Promise<string>[] = [];
  for (let seq = 1; seq <= 200; seq++) {
    appended.push(stream.append(eventOf('cam-1', seq)));
    // Twice in all: an append loads it so often and no more.
    if (seq % 80 === 0) await redis.command('SCRIPT', 'FLUSH');
    if (seq % 7 === 0) await new Promise(setImmediate);
  }
  await Promise.all(appended);
  const entries = await stream.read(0, ZERO_ID, 1_000);
  expect(entries.map(({ id, event }) => [entryNumber(id), event.seq])).toEqual(upTo(200).map((n) => [n, n]));
  expect(entries[0]?.event.code).toBe('cam-1' as DeviceCode);
});
