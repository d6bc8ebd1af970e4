/** Redis: connections, scripts, and the schema of every key. */

export {
  type ConnectionEvent,
  type ConnectionRole,
  closeConnection,
  connected,
  dropConnection,
  isCluster,
  masterOf,
  type NodeConnection,
  nodeFor,
  openConnection,
  openNode,
  type RedisConnection,
  type RedisSettings,
  ready,
  refreshTopology,
  retryDelayMs,
  withDeadline,
} from './connection.ts';
export { guarded, hasMoved, notDone, toBrokerError } from './guard.ts';
export { createKeyspace, DEFAULT_PREFIX, DEFAULT_SHARDS, type Keyspace, parcelKey } from './keyspace.ts';
export { checkMeta } from './meta.ts';
export { keep, publish } from './publish.ts';
export { RedisClock } from './redis-clock.ts';
export { ReplicaBarrier } from './replica-barrier.ts';
export {
  createNodeScript,
  createScript,
  type NodeScript,
  type Script,
  type ScriptArgument,
  type ScriptOptions,
} from './script.ts';
export { StoreMemory } from './store-memory.ts';
export { addressesOf, parseRedisUrl, type RedisAddress, type RedisTopology } from './url.ts';
