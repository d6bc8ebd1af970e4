/** Runs the contract suite of this package on one Redis and on a Redis Cluster of three masters. */

import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import { fromStreamFields } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  isCluster,
  openConnection,
  type RedisConnection,
  ready,
} from '@lapi-broker/redis';
import { afterAll, beforeAll, describe } from 'vitest';
import { RedisLaneStore } from '../redis/redis-lane-store.ts';
import { type LaneStoreHarness, laneStoreContract } from './lane-store.ts';

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

  laneStoreContract(topology, async (): Promise<LaneStoreHarness> => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    return {
      store: new RedisLaneStore(connection, keyspace, { streamMaxLength: 100_000, keepMs: 86_400_000 }),
      keyspace,
      provision: async (code) => void (await connection.hset(keyspace.device(code), { rev: 1, enabled: '1' })),
      own: async (code, node, epoch) =>
        void (await connection.hset(keyspace.device(code), { node, epoch: String(epoch) })),
      disown: async (code) => void (await connection.hdel(keyspace.device(code), 'node')),
      async events(code) {
        const entries = await connection.xrangeBuffer(keyspace.events(keyspace.shardOf(code)), '-', '+');
        return entries.map(([, fields]) => fromStreamFields(fields)).filter((event) => event.code === code);
      },
      async traces(code) {
        const keys = {
          clock: keyspace.clock(code),
          lane: keyspace.lane(code),
          normal: keyspace.waitingIn('normal', code),
          urgent: keyspace.waitingIn('urgent', code),
        };
        const found = await Promise.all(
          Object.entries(keys).map(async ([name, key]) => ((await connection.exists(key)) === 1 ? [name] : [])),
        );
        const isDue = (await connection.zscore(keyspace.due(keyspace.shardOf(code)), code)) !== null;
        return [...found.flat(), ...(isDue ? ['due'] : [])].sort();
      },
      nowMs: () => timeOf(connection),
      close: async () => undefined,
    };
  });
});

/** Of any master: they share the machine's clock. */
async function timeOf(connection: RedisConnection): Promise<number> {
  const [master] = isCluster(connection) ? connection.nodes('master') : [connection];
  const [seconds = 0, micros = 0] = ((await master?.time()) ?? []).map(Number);
  return seconds * 1000 + Math.floor(micros / 1000);
}
