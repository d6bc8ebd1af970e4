/** The black box of each device: how its last sessions began and ended, and why it was not let in. A port, in memory and on Redis. */

export { decodeSession, encodeSession } from './entry-text.ts';
export { MemoryTimeline } from './memory/memory-timeline.ts';
export { RedisTimeline, type RedisTimelineOptions } from './redis/redis-timeline.ts';
export type * from './timeline.ts';
