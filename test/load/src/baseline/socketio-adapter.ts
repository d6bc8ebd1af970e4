/** The Redis adapter that its makers recommend since Redis 7: sharded pub/sub. */

import { createShardedAdapter } from '@socket.io/redis-adapter';
import { Redis } from 'ioredis';

export function sharded(redisPort: number): ReturnType<typeof createShardedAdapter> {
  return createShardedAdapter(
    new Redis({ port: redisPort, host: '127.0.0.1' }),
    new Redis({ port: redisPort, host: '127.0.0.1' }),
  );
}
