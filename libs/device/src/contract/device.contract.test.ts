/** Runs the contract suite of the device store in memory, on one Redis and on a Redis Cluster of three masters. */

import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import type { DeviceCode, NodeId } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  isCluster,
  openConnection,
  type RedisConnection,
  ready,
} from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type DeviceSession, MemoryDeviceStore } from '../memory/device-store.ts';
import { RedisDeviceStore } from '../redis/device-store.ts';
import { deviceStoreContract, SESSION } from './device-store.ts';

const { owner, facts, lastOffline, subscription, hold } = SESSION;

deviceStoreContract('memory', async () => {
  const sessions = new Map<DeviceCode, DeviceSession>();
  return {
    store: new MemoryDeviceStore({ nowMs: Date.now, sessionOf: (code) => sessions.get(code) }),
    async connect(code) {
      sessions.set(code, { owner: { ...owner, node: owner.node as NodeId }, facts, lastOffline, subscription, hold });
    },
    async disconnect(code) {
      sessions.set(code, { owner: undefined, facts, lastOffline, subscription: '', hold });
    },
    epoch: async (code) => sessions.get(code)?.owner?.epoch,
    isIndexed: async () => false,
    close: async () => undefined,
  };
});

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

  deviceStoreContract(topology, async () => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    return {
      store: new RedisDeviceStore(connection, keyspace),
      async connect(code) {
        await connection.hset(keyspace.device(code), {
          node: owner.node,
          epoch: String(owner.epoch),
          session: owner.session,
          since: String(owner.sinceMs),
          vendor: facts.vendor,
          kind: facts.deviceType,
          addr: facts.address,
          off: lastOffline.reason,
          offAt: String(lastOffline.atMs),
          sub: subscription,
          hu: String(hold.untilMs),
          hk: hold.reason,
          ha: hold.addresses.join(','),
        });
      },
      async disconnect(code) {
        await connection.hdel(keyspace.device(code), 'node', 'session', 'since', 'sub');
      },
      async epoch(code) {
        return Number((await connection.hget(keyspace.device(code), 'epoch')) ?? Number.NaN);
      },
      async isIndexed(code, tag) {
        return (await connection.zscore(keyspace.tag(keyspace.shardOf(code), tag), code)) !== null;
      },
      endsInS: async (code) => await connection.ttl(keyspace.device(code)),
      close: async () => undefined,
    };
  });

  test('indexes hold nothing once all devices are removed, and no secret stays behind', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`, 1);
    const store = new RedisDeviceStore(connection, keyspace);
    const code = 'DEVICE-1' as DeviceCode;
    await store.put(code, { secret: Uint8Array.of(1), tags: ['a', 'b'], type: 'ipc' });
    await store.put(code, { tags: ['c'] });
    await store.remove(code);
    const keys = [
      keyspace.codes(0),
      keyspace.secret(code),
      keyspace.type(0, 'ipc'),
      ...['a', 'b', 'c'].map((tag) => keyspace.tag(0, tag)),
    ];
    expect(await Promise.all(keys.map((key) => connection.exists(key)))).toEqual(keys.map(() => 0));
  });

  test('a full Redis refuses new devices and still removes those that are there (D12)', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    const store = new RedisDeviceStore(connection, keyspace);
    const [there, more] = ['DEVICE-1' as DeviceCode, 'DEVICE-2' as DeviceCode];
    await store.put(there, { secret: Uint8Array.of(1) });
    await setMaxMemory(connection, 1);
    try {
      await expect(store.put(more, { secret: Uint8Array.of(1) })).rejects.toMatchObject({ code: 'broker_unavailable' });
      expect(await store.remove(there)).toBe(true);
    } finally {
      await setMaxMemory(connection, 0);
    }
  });

  test('secrets of another revision than the row’s are not handed out', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`, 1);
    const store = new RedisDeviceStore(connection, keyspace);
    const code = 'DEVICE-1' as DeviceCode;
    const { revision } = await store.put(code, { secret: Uint8Array.of(1) });
    await connection.hset(keyspace.device(code), { rev: revision + 1 });
    await expect(store.credentials(code)).rejects.toMatchObject({ code: 'broker_unavailable' });
  });
});

async function setMaxMemory(connection: RedisConnection, bytes: number): Promise<void> {
  const masters = isCluster(connection) ? connection.nodes('master') : [connection];
  await Promise.all(masters.map((master) => master.config('SET', 'maxmemory', bytes)));
}
