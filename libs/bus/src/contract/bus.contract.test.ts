/** Runs the contract suites of this package in memory, on one Redis and on a Redis Cluster of three masters. */

import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import { closeConnection, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { MemoryEventStream } from '../memory/memory-event-stream.ts';
import { type MemoryHub, MemoryPubSub } from '../memory/memory-pubsub.ts';
import { RedisEventStream } from '../redis/redis-event-stream.ts';
import { RedisPubSub } from '../redis/redis-pubsub.ts';
import { type EventStreamUnderTest, eventStreamContract } from './event-stream.ts';
import { type PubSubUnderTest, pubSubContract } from './pubsub.ts';

pubSubContract('memory', async () => {
  const hub: MemoryHub = new Map();
  return { open: (limits) => new MemoryPubSub({ hub, ...(limits && { limits }) }), close: async () => undefined };
});
eventStreamContract('memory', async () => ({
  open: (keyspace, retention) =>
    Object.assign(new MemoryEventStream(keyspace, { retention }), { stop: async () => undefined }),
  close: async () => undefined,
}));

for (const [topology, start] of [
  ['standalone', startRedis],
  ['cluster', startRedisCluster],
] as const) {
  const connect = async (): Promise<{ state: RedisConnection; close: () => Promise<void> }> => {
    const server = await start();
    const state = openConnection({ url: server.url, commandTimeoutMs: 5000 }, 'state');
    await ready(state, 10_000);
    return {
      state,
      close: async () => {
        await closeConnection(state);
        await server.stop();
      },
    };
  };
  pubSubContract(topology, async (): Promise<PubSubUnderTest> => {
    const { state, close } = await connect();
    return { open: (limits) => new RedisPubSub({ state, ...(limits && { limits }) }), close };
  });
  eventStreamContract(topology, async (): Promise<EventStreamUnderTest> => {
    const { state, close } = await connect();
    return { open: (keyspace, retention) => new RedisEventStream({ state, keyspace, retention }), close };
  });
}
