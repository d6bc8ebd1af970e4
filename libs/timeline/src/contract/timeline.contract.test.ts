/** Runs the contract suite of the timeline in memory, on one Redis and on a Redis Cluster of three masters. */

import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { UNKNOWN_KEEP_MS } from '../bounds.ts';
import { MemoryTimeline } from '../memory/memory-timeline.ts';
import { RedisTimeline } from '../redis/redis-timeline.ts';
import { CODE, refusalEntry, sessionEntry, timelineContract } from './timeline.ts';

timelineContract('memory', async () => new MemoryTimeline());

const KEEP_MS = 86_400_000;
let prefixes = 0;

describe.each([
  ['standalone', startRedis],
  ['cluster', startRedisCluster],
] as const)('%s', (topology, start) => {
  let server: { readonly url: string; stop(): Promise<void> };
  let connection: RedisConnection;
  beforeAll(async () => {
    server = await start();
    connection = openConnection({ url: server.url, commandTimeoutMs: 5_000 }, 'state');
    await ready(connection, 10_000);
  });
  afterAll(async () => {
    await closeConnection(connection);
    await server.stop();
  });

  timelineContract(topology, async () => {
    return new RedisTimeline(connection, createKeyspace(`test${++prefixes}`), { keepMs: KEEP_MS });
  });

  test('what is known of a provisioned device lives as long as it was set, of a made-up code an hour', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    const timeline = new RedisTimeline(connection, keyspace, { keepMs: KEEP_MS });
    await timeline.append([refusalEntry(0)]);
    const madeUpMs = await connection.pttl(keyspace.refused(CODE));
    expect(madeUpMs).toBeGreaterThan(UNKNOWN_KEEP_MS - 60_000);
    expect(madeUpMs).toBeLessThanOrEqual(UNKNOWN_KEEP_MS);
    await connection.hset(keyspace.device(CODE), { rev: 1 });
    await timeline.append([refusalEntry(1), sessionEntry(1)]);
    for (const key of [keyspace.refused(CODE), keyspace.timeline(CODE)]) {
      expect(await connection.pttl(key)).toBeGreaterThan(KEEP_MS - 60_000);
    }
  });

  test('an entry of another version is left out, and does not keep refusals from being counted', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    const timeline = new RedisTimeline(connection, keyspace, { keepMs: KEEP_MS });
    await connection.lpush(keyspace.timeline(CODE), '{"v":2}', 'no JSON');
    await connection.lpush(keyspace.refused(CODE), '[]', '{"r":"bad_sign"}', 'no JSON');
    await timeline.append([sessionEntry(1), refusalEntry(0), refusalEntry(1)]);
    const read = await timeline.read(CODE);
    expect(read.sessions).toEqual([sessionEntry(1)]);
    expect(read.refusals).toMatchObject([{ count: 2 }]);
  });
});

test('with the store away nothing is thrown: what was not taken comes back', async () => {
  const server = await startRedis();
  const connection = openConnection({ url: server.url, commandTimeoutMs: 1_000 }, 'state');
  await ready(connection, 10_000);
  const timeline = new RedisTimeline(connection, createKeyspace('gone'), { keepMs: KEEP_MS });
  await server.stop();
  const entries = [sessionEntry(1), refusalEntry(0)];
  expect(await timeline.append(entries)).toEqual(entries);
  await expect(timeline.read(CODE)).rejects.toMatchObject({ code: 'broker_unavailable' });
  await closeConnection(connection);
});
