/** The numbers of events when everybody writes to one shard at once: edges, the ownership scripts and the lane scripts. */

import { entryNumber, RedisEventStream, ZERO_ID } from '@lapi-broker/bus';
import { type RedisServer, startRedis } from '@lapi-broker/fixture';
import { type NewCommand, RedisLaneStore } from '@lapi-broker/lane';
import { type DeviceCode, type NodeId, newCommandId, type SessionId } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { RedisOwnerRegistry } from '@lapi-broker/routing';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { record } from '../testing/event-record.ts';

const FACTS = { vendor: '', deviceType: '', algorithm: '', address: '' };
const DEVICES = 25;

let redis: RedisServer;
const connections: RedisConnection[] = [];

beforeAll(async () => {
  redis = await startRedis();
  for (let i = 0; i < 3; i++) connections.push(openConnection({ url: redis.url, commandTimeoutMs: 5_000 }, 'state'));
  await Promise.all(connections.map((connection) => ready(connection, 10_000)));
});
afterAll(async () => {
  await Promise.all(connections.map((connection) => closeConnection(connection)));
  await redis.stop();
});

test('whoever appends, the events of a shard are numbered in one row without a hole', async () => {
  const [first, second, third] = connections as [RedisConnection, RedisConnection, RedisConnection];
  const keyspace = createKeyspace('numbers', 1);
  const streams = [first, second].map((state) => new RedisEventStream({ state, keyspace }));
  const registry = new RedisOwnerRegistry(second, keyspace);
  const lanes = new RedisLaneStore(third, keyspace, { keepMs: 60_000 });
  const node = 'edge.1' as NodeId;
  const presence = async (code: DeviceCode, session: SessionId): Promise<void> => {
    await third.hset(keyspace.device(code), { rev: 1, enabled: '1' });
    const claim = { code, node, session, facts: FACTS, nonce: session, nonceTtlMs: 60_000, revision: 1 };
    const claimed = await registry.claim({ ...claim, notAfterMs: 8.64e15 });
    if (claimed.status !== 'claimed') throw new Error(claimed.status);
    await lanes.submit(waiting(code), { commands: 10, bytes: 10_000 }, 8.64e15);
    await registry.release({ code, node, epoch: claimed.epoch, reason: 'closed' });
  };
  const work: Promise<unknown>[] = [];
  for (let i = 0; i < DEVICES; i++) {
    const code = `cam-${i}` as DeviceCode;
    work.push(presence(code, `s${i}` as SessionId));
    for (let seq = 1; seq <= 10; seq++) for (const stream of streams) work.push(stream.append(record({ code, seq })));
    await new Promise(setImmediate);
  }
  await Promise.all(work);
  const entries = (await streams[0]?.read(0, ZERO_ID, 10_000)) ?? [];
  // Of each device 20 events, online, queued and offline.
  expect(entries.map(({ id }) => entryNumber(id))).toEqual(Array.from({ length: DEVICES * 23 }, (_, i) => i + 1));
  expect(await streams[0]?.bounds(0)).toMatchObject({ added: DEVICES * 23, length: DEVICES * 23 });
  expect(await first.hget(`${keyspace.events(0)}:count`, 'n')).toBe(String(DEVICES * 23));
  await Promise.all(streams.map((stream) => stream.stop()));
});

let commands = 0;
function waiting(code: DeviceCode): NewCommand {
  return {
    id: newCommandId(0, String(++commands).padStart(20, '0')),
    code,
    mode: 'queue',
    lane: 'normal',
    method: 'GET',
    url: '/LAPI/V1.0/System/DeviceInfo',
    body: Buffer.alloc(0),
    timeoutMs: 1_000,
    expiresAtMs: 8.64e15,
    directUntilMs: undefined,
    notBeforeMs: undefined,
    maxAttempts: 1,
    backoffMs: 100,
    coalesceKey: undefined,
    idempotency: undefined,
    keyId: 'k',
    job: undefined,
    retryOf: undefined,
    replyTo: undefined,
  };
}
