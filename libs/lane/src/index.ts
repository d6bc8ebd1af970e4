/** The ordered queues of commands of the devices, and the record of each command: two ports and their implementation on Redis. */

export * from './command-record.ts';
export type * from './lane-store.ts';
export { RedisLaneStore, type RedisLaneStoreOptions } from './redis/redis-lane-store.ts';
