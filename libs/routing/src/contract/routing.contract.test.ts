/** Runs the contract suites of this package in memory, on one Redis and on a Redis Cluster of three masters. */

import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import { type DeviceCode, type Epoch, fromStreamFields, type NodeId, type SessionId } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  isCluster,
  type NodeConnection,
  openConnection,
  type RedisConnection,
  ready,
} from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MemoryNodeDirectory } from '../memory/node-directory.ts';
import type { ClaimRequest, HoldReason } from '../owner-registry.ts';
import { QUARANTINE } from '../quarantine.ts';
import { RedisNodeDirectory } from '../redis/node-directory.ts';
import { RedisOwnerRegistry } from '../redis/owner-registry.ts';
import { nodeDirectoryContract } from './node-directory.ts';
import { type OpenOwnerRegistry, openModel, ownerRegistryContract } from './owner-registry.ts';

ownerRegistryContract('memory', async (flap, quarantine) => openModel(flap, quarantine));
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

  const openRegistry: OpenOwnerRegistry = async (flap, quarantine = QUARANTINE) => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    const nowMs = async (): Promise<number> => {
      // Any master will do: they share the machine's clock.
      const [seconds = 0, micros = 0] = (await timeOf(connection)).map(Number);
      return seconds * 1000 + Math.floor(micros / 1000);
    };
    return {
      registry: new RedisOwnerRegistry(connection, keyspace, { flap, quarantine }),
      async provision(code, revision, { tags = [], enabled = true } = {}) {
        const fields = { rev: revision, enabled: enabled ? '1' : '0', tags: JSON.stringify(tags) };
        await connection.hset(keyspace.device(code), fields);
      },
      async unprovision(code) {
        await connection.hdel(keyspace.device(code), 'rev', 'enabled', 'tags');
        await connection.expire(keyspace.device(code), 3600);
      },
      async raiseEpoch(code, epoch) {
        await connection.hset(keyspace.device(code), 'epoch', String(epoch));
      },
      async fillLane(code) {
        await connection.hset(keyspace.lane(code), 'seq', '1');
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
      subscription: async (code) => (await connection.hget(keyspace.device(code), 'sub')) ?? '',
      offlineReason: async (code) => (await connection.hget(keyspace.device(code), 'off')) ?? undefined,
      async hold(code) {
        const [untilMs, reason, addresses] = await connection.hmget(keyspace.device(code), 'hu', 'hk', 'ha');
        if (!untilMs) return undefined;
        return { reason: reason as HoldReason, untilMs: Number(untilMs), addresses: (addresses ?? '').split(',') };
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

  test('a full Redis refuses new claims and still takes renewals, releases, reclaims and the reaper (D12)', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    const registry = new RedisOwnerRegistry(connection, keyspace);
    const directory = new RedisNodeDirectory(connection, keyspace);
    const [node, next] = ['edge.1', 'edge.2'] as NodeId[] as [NodeId, NodeId];
    const [released, reclaimed, reaped, refused] = ['a', 'b', 'c', 'd'] as DeviceCode[] as [
      DeviceCode,
      DeviceCode,
      DeviceCode,
      DeviceCode,
    ];
    for (const code of [released, reclaimed, reaped, refused])
      await connection.hset(keyspace.device(code), { rev: 1, enabled: '1' });
    const epochs = new Map<DeviceCode, Epoch>();
    for (const code of [released, reclaimed, reaped]) {
      const result = await registry.claim(claimOf(code, node));
      if (result.status === 'claimed') epochs.set(code, result.epoch);
    }
    await directory.join({ node, address: '', version: '', startedAtMs: 0 }, 60_000);
    await setMaxMemory(connection, 1);
    try {
      await expect(registry.claim(claimOf(refused, node))).rejects.toMatchObject({ code: 'broker_unavailable' });
      const load = { sessions: 3, registrations: 0, loopLagMs: 0, phase: 'serving' } as const;
      expect(await directory.renew(node, load, 60_000, 8.64e15)).toMatchObject({ status: 'renewed' });
      const ending = { code: released, node, epoch: epochs.get(released) as Epoch, reason: 'closed' } as const;
      expect(await registry.release(ending)).toEqual({ status: 'released' });
      const going = {
        code: reclaimed,
        from: node,
        to: next,
        epoch: epochs.get(reclaimed) as Epoch,
        session: 's' as SessionId,
      };
      expect(await registry.reclaim(going)).toMatchObject({ status: 'reclaimed' });
      expect(await registry.announceEnd(node, 'lost')).toEqual({ status: 'announced', devices: 1 });
      expect(await registry.reap(node, 10)).toEqual({ offline: 1, done: true });
      await directory.leave(node);
    } finally {
      await setMaxMemory(connection, 0);
    }
  });

  test('a row with damaged tags is claimed and released all the same, its events without tags', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`, 1);
    const registry = new RedisOwnerRegistry(connection, keyspace);
    const [code, node] = ['DEVICE-1' as DeviceCode, 'edge.1' as NodeId];
    await connection.hset(keyspace.device(code), { rev: 1, enabled: '1', tags: '[{"no": "list of words"}' });
    const result = await registry.claim(claimOf(code, node));
    if (result.status !== 'claimed') throw new Error(`expected a claim, got ${result.status}`);
    await connection.hset(keyspace.device(code), { tags: '[true, null]' });
    expect(await registry.release({ code, node, epoch: result.epoch, reason: 'closed' })).toEqual({
      status: 'released',
    });
    const entries = await connection.xrangeBuffer(keyspace.events(0), '-', '+');
    expect(entries.map(([, fields]) => fromStreamFields(fields)).map(({ kind, tags }) => [kind, tags])).toEqual([
      ['presence.online', []],
      ['presence.offline', []],
    ]);
  });

  test('a hold that was written before the clock went back keeps no device away, and the next claim forgets it', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`, 1);
    const registry = new RedisOwnerRegistry(connection, keyspace);
    const [code, node] = ['DEVICE-1' as DeviceCode, 'edge.1' as NodeId];
    const hold = { hu: Date.now() + 3_600_000, hk: 'quarantined', ha: '192.0.2.1' };
    await connection.hset(keyspace.device(code), { rev: 1, enabled: '1', ...hold });
    expect((await registry.claim(claimOf(code, node))).status).toBe('claimed');
    expect(await connection.hmget(keyspace.device(code), 'hu', 'hk', 'ha')).toEqual([null, null, null]);
  });

  test('a node that left is known to have left for weeks, because it may be listed as long where nobody forgets it', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`, 1);
    await new RedisOwnerRegistry(connection, keyspace).announceEnd('edge.1' as NodeId, 'left');
    expect(await connection.pttl(keyspace.ended(0, 'edge.1' as NodeId))).toBeGreaterThan(14 * 86_400_000);
  });

  test('the entries of the event stream are numbered without a hole, whichever way the registry adds to them', async () => {
    const keyspace = createKeyspace(`test${++prefixes}`, 1);
    const registry = new RedisOwnerRegistry(connection, keyspace);
    const codes = Array.from({ length: 50 }, (_, i) => `DEVICE-${i}` as DeviceCode);
    const [node, next] = ['edge.1' as NodeId, 'edge.2' as NodeId];
    const epochs = new Map<DeviceCode, Epoch>();
    for (const code of codes) await connection.hset(keyspace.device(code), { rev: 1, enabled: '1' });
    const claim = async (code: DeviceCode): Promise<void> => {
      const result = await registry.claim(claimOf(code, node, `${++prefixes}`));
      if (result.status === 'claimed') epochs.set(code, result.epoch);
    };
    const ways: (() => Promise<unknown>)[] = [
      () => Promise.all(codes.map(claim)),
      () => registry.reap(node, codes.length),
      () =>
        Promise.all(
          codes.map((code) =>
            registry.reclaim({
              code,
              from: node,
              epoch: epochs.get(code) as Epoch,
              to: next,
              session: 's' as SessionId,
            }),
          ),
        ),
      () => registry.announceEnd(next, 'lost'),
      () => registry.reap(next, codes.length),
      () => Promise.all(codes.map(claim)),
      () =>
        Promise.all(
          codes.map((code) => registry.release({ code, node, epoch: epochs.get(code) as Epoch, reason: 'closed' })),
        ),
    ];
    let length = 0;
    for (const way of ways) {
      await way();
      const entries = await connection.xrange(keyspace.events(0), '-', '+');
      expect(entries.length).toBeGreaterThan(length);
      length = entries.length;
      expect(entries.map(([id]) => Number(id.split('-')[1]))).toEqual(Array.from(entries, (_, i) => i + 1));
      const bytes = entries.reduce((sum, [, fields]) => sum + 256 + Buffer.byteLength(fields.at(-1) ?? ''), 0);
      expect(await connection.hmget(`${keyspace.events(0)}:count`, 'n', 'b')).toEqual([String(length), String(bytes)]);
    }
  });
});

function claimOf(code: DeviceCode, node: NodeId, nonce = 'n'): ClaimRequest {
  const facts = { vendor: '', deviceType: '', algorithm: '', address: '' };
  const session = `session-${nonce}` as SessionId;
  return { code, node, session, facts, nonce, nonceTtlMs: 1000, revision: 1, notAfterMs: 8.64e15 };
}

function mastersOf(connection: RedisConnection): readonly NodeConnection[] {
  return isCluster(connection) ? connection.nodes('master') : [connection];
}

async function setMaxMemory(connection: RedisConnection, bytes: number): Promise<void> {
  await Promise.all(mastersOf(connection).map((master) => master.config('SET', 'maxmemory', bytes)));
}

async function timeOf(connection: RedisConnection): Promise<readonly (string | number)[]> {
  return (await mastersOf(connection)[0]?.time()) ?? [];
}
