/** Frames between processes (PubSub: a hint) and events of devices (EventStream: durable). */

export type { Frame, FrameSource } from './batch.ts';
export {
  compareEntryIds,
  type EntryId,
  type EventStream,
  entryNumber,
  type StreamBounds,
  type StreamEntry,
  type Tail,
  type Trimmed,
  ZERO_ID,
} from './event-stream.ts';
export { MemoryEventStream, type MemoryEventStreamOptions } from './memory/memory-event-stream.ts';
export { type MemoryHub, MemoryPubSub, type MemoryPubSubOptions } from './memory/memory-pubsub.ts';
export type { PublisherLimits } from './publisher.ts';
export type { PublishResult, PubSub, PubSubCounts, Subscription } from './pubsub.ts';
export { RedisEventStream, type RedisEventStreamOptions } from './redis/redis-event-stream.ts';
export { RedisPubSub, type RedisPubSubOptions } from './redis/redis-pubsub.ts';
export { DEFAULT_RETENTION, ENTRY_BYTES, type Retention } from './retention.ts';
