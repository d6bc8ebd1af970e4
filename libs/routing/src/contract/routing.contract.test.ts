/** Runs the contract suites of this package in memory, on one Redis and on a Redis Cluster of three masters. */

import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import { type DeviceCode, fromStreamFields } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MemoryNodeDirectory } from '../memory/node-directory.ts';
import { RedisNodeDirectory } from '../redis/node-directory.ts';
import { RedisOwnerRegistry } from '../redis/owner-registry.ts';
import { nodeDirectoryContract } from './node-directory.ts';
import { type OpenOwnerRegistry, openModel, ownerRegistryContract } from './owner-registry.ts';

ownerRegistryContract('memory', async (flap) => openModel(flap));
nodeDirectoryContract('memory', async () => ({
  directory: new MemoryNodeDirectory(Date.now),
  close: async () => undefined,
}));

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

  const openRegistry: OpenOwnerRegistry = async (flap) => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    const nowMs = async (): Promise<number> => {
      // Any master will do: they share the machine's clock.
      const [seconds = 0, micros = 0] = (await timeOf(connection)).map(Number);
      return seconds * 1000 + Math.floor(micros / 1000);
    };
    return {
      registry: new RedisOwnerRegistry(connection, keyspace, { streamMaxLength: 100_000, flap }),
      async provision(code, revision, { tags = [], enabled = true } = {}) {
        const fields = { rev: revision, enabled: enabled ? '1' : '0', tags: JSON.stringify(tags) };
        await connection.hset(keyspace.device(code), fields);
        await connection.persist(keyspace.device(code));
      },
      async unprovision(code) {
        await connection.hdel(keyspace.device(code), 'rev', 'enabled', 'tags');
        await connection.expire(keyspace.device(code), 3600);
      },
      async raiseEpoch(code, epoch) {
        await connection.hset(keyspace.device(code), 'epoch', String(epoch));
      },
      async events(code) {
        const entries = await connection.xrangeBuffer(keyspace.events(keyspace.shardOf(code)), '-', '+');
        return entries.map(([, fields]) => fromStreamFields(fields)).filter((event) => event.code === code);
      },
      async owned(node) {
        const shards = Array.from({ length: keyspace.shards }, (_, shard) =>
          connection.zrange(keyspace.owned(shard, node), 0, '-1'),
        );
        return (await Promise.all(shards)).flat() as DeviceCode[];
      },
      expires: async (code) => (await connection.pttl(keyspace.device(code))) !== -1,
      nowMs,
      close: async () => undefined,
    };
  };

  ownerRegistryContract(topology, openRegistry);
  nodeDirectoryContract(topology, async () => ({
    directory: new RedisNodeDirectory(connection, createKeyspace(`test${++prefixes}`)),
    close: async () => undefined,
  }));

  test('a list of nodes reads no more incarnations than its limit, the latest beats first', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    const directory = new RedisNodeDirectory(connection, keyspace, { listLimit: 2 });
    for (const [score, node] of [
      [1, 'old.1'],
      [3, 'new.3'],
      [2, 'mid.2'],
    ] as const) {
      await connection.zadd(keyspace.nodes(), score, node);
    }
    expect((await directory.list()).map(({ node, lastBeatMs }) => [node, lastBeatMs])).toEqual([
      ['mid.2', 2],
      ['new.3', 3],
    ]);
  });

  test('the event stream keeps about its length, whatever the registry adds', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`, 1);
    const registry = new RedisOwnerRegistry(connection, keyspace, { streamMaxLength: 10 });
    const code = 'DEVICE-1' as DeviceCode;
    await connection.hset(keyspace.device(code), { rev: 1, enabled: '1' });
    for (let i = 0; i < 300; i++) {
      const node = 'edge.1' as Parameters<typeof registry.release>[0]['node'];
      const result = await registry.claim({
        code,
        node,
        session: `s${i}` as Parameters<typeof registry.claim>[0]['session'],
        facts: { vendor: '', deviceType: '', algorithm: '', address: '' },
        nonce: `n${i}`,
        nonceTtlMs: 1000,
        revision: 1,
        notAfterMs: 8.64e15,
      });
      if (result.status === 'claimed') await registry.release({ code, node, epoch: result.epoch, reason: 'closed' });
    }
    expect(await connection.xlen(keyspace.events(0))).toBeLessThan(220);
  });
});

async function timeOf(connection: RedisConnection): Promise<readonly (string | number)[]> {
  const [server = connection] = 'nodes' in connection ? connection.nodes('master') : [];
  return await server.time();
}
