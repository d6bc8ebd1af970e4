/** Opens connections to Redis, one per role, on every topology. The only home of ioredis and of its settings.
 *  CONTRACT (implementation in progress): what services and the other libs may rely on. */

import type { Cluster, Redis } from 'ioredis';

/** state: fast commands and scripts, fail fast, never resend. subscriber: pub/sub with a ping of its own. reader: blocking stream reads. */
export type ConnectionRole = 'state' | 'subscriber' | 'reader';

export interface RedisSettings {
  /** `redis://host:port/db`, `rediss://…`; `redis+sentinel://host:port,host:port/name`; `redis+cluster://host:port,host:port`. */
  readonly url: string;
  readonly commandTimeoutMs: number;
}

export type RedisConnection = Redis | Cluster;
