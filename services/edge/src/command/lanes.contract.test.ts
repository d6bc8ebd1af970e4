import { randomBytes } from 'node:crypto';
import { MemoryPubSub } from '@lapi-broker/bus';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { type NewCommand, RedisLaneStore } from '@lapi-broker/lane';
import { type DeviceCode, type Epoch, type NodeId, newCommandId } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, RedisClock, ready } from '@lapi-broker/redis';
import { createLog, createMetrics } from '@lapi-broker/telemetry';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readEdgeConfig } from '../config.ts';
import { createEdgeMetrics } from '../metrics.ts';
import type { LaneSession } from './lane-runner.ts';
import { Lanes } from './lanes.ts';

const CODE = 'CAM-1' as DeviceCode;
const NODE = 'edge.1' as NodeId;
const EPOCH = 7 as Epoch;

let redis: RedisServer;
beforeAll(async () => {
  redis = await startRedis();
});
afterAll(() => redis.stop());

test('an end that the store forgets when it falls back is told to it again, once the connection is back (I4)', async () => {
  const connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(connection, 5_000);
  const keyspace = createKeyspace('lanes');
  const store = new RedisLaneStore(connection, keyspace, { keepMs: 60_000 });
  const redisClock = new RedisClock();
  redisClock.observe(Date.now(), performance.now(), performance.now());
  const key = (): string => randomBytes(32).toString('base64');
  const lanes = new Lanes({
    config: readEdgeConfig({ REDIS_URL: redis.url, LAPI_SECRET_KEY: key(), LAPI_NONCE_KEY: key() }),
    keyspace,
    pubsub: new MemoryPubSub(),
    redisClock,
    monotonicMs: () => performance.now(),
    mayWrite: () => true,
    check: () => undefined,
    metrics: createEdgeMetrics(createMetrics('edge')),
    onEvent: () => undefined,
    log: createLog({ service: 'edge', level: 'silent' }),
  });
  await lanes.start();
  const looking = setInterval(() => lanes.look(performance.now()), 20);
  try {
    await connection.hset(keyspace.device(CODE), { rev: '1', node: NODE, epoch: String(EPOCH) });
    const id = newCommandId(keyspace.shardOf(CODE), '0'.repeat(20));
    const command: NewCommand = {
      id,
      code: CODE,
      mode: 'queue',
      lane: 'normal',
      method: 'PUT',
      url: '/LAPI/V1.0/System/Time',
      body: Buffer.from('{}'),
      timeoutMs: 60_000,
      expiresAtMs: Date.now() + 600_000,
      directUntilMs: undefined,
      notBeforeMs: undefined,
      maxAttempts: 1,
      backoffMs: 1_000,
      coalesceKey: undefined,
      idempotency: undefined,
      keyId: 'key',
      job: undefined,
      retryOf: undefined,
      replyTo: undefined,
    };
    await store.submit(command, { commands: 10, bytes: 10_000 }, Date.now() + 60_000);
    // `begin` uses nothing else of a session.
    const begun = await lanes.begin({ code: CODE, node: NODE, epoch: EPOCH } as LaneSession, 'normal');
    if (begun.status !== 'begun') throw new Error(begun.status);
    const stateOf = async (): Promise<string | undefined> => (await store.read(id))?.state;

    const keys = [keyspace.command(id), keyspace.lane(CODE), keyspace.clock(CODE)];
    const kept = await Promise.all(keys.map((each) => connection.dumpBuffer(each)));
    lanes.report({
      attempt: { code: CODE, id, epoch: EPOCH, attempt: begun.command.attempt },
      end: { kind: 'answered', success: true, responseCode: 0, body: Buffer.from('{"ResponseCode":0}') },
      heard: () => undefined,
    });
    await waitFor(async () => ((await stateOf()) === 'succeeded' ? true : undefined), {
      deadlineMs: 5_000,
      what: 'the end',
    });

    for (const [i, each] of keys.entries()) await connection.restore(each, 0, kept[i] as Buffer, 'REPLACE');
    expect(await stateOf()).toBe('sent');
    await connection.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await waitFor(async () => ((await stateOf()) === 'succeeded' ? true : undefined), {
      deadlineMs: 5_000,
      what: 'the end, once more',
    });
    expect(await store.read(id)).toMatchObject({ executed: 'yes', late: false, attempts: 1 });
  } finally {
    clearInterval(looking);
    await lanes.stop();
    await closeConnection(connection);
  }
});
