/** Every bound and span of the live feed, with its reason. */

export const FEED_LIMITS = {
  /** Per subscriber, given to its connection and not yet taken (reliability §5). One message above it is allowed when nothing else waits. */
  waitingBytes: 1024 * 1024,
  waitingMessages: 1_000,
  /** Below this a connection counts as taking what it gets. */
  lowWaterBytes: 64 * 1024,
  /** Over all subscribers; above it the bound of each shrinks to `lowWaterBytes`. */
  totalWaitingBytes: 256 * 1024 * 1024,
  /** A connection that takes nothing, or stays behind because it is slow, is closed after this. */
  slowGraceMs: 30_000,
  heartbeatMs: 15_000,
  sweepMs: 1_000,
  /** Between two looks at whether the store is there, is not shorter than the tail, and has nothing that does not arrive. */
  auditMs: 2_000,
  /** A tail that has not reached within this what an audit saw is opened anew. */
  tailStallMs: 10_000,
  /** How long the tail stays open without subscribers. */
  lingerMs: 60_000,
  /** Last events kept in memory: bytes over all shards, entries per shard. */
  recentBytes: 8 * 1024 * 1024,
  recentEntries: 1_024,
  /** Aim for one page of one shard. */
  pageBytes: 128 * 1024,
  pageEntries: 512,
  /** Of the events in one answer to who fetches pages; a single event may be larger. */
  answerBytes: 4 * 1024 * 1024,
  /** What one such answer may read, whatever matches. */
  scanBytes: 16 * 1024 * 1024,
  /** Pages read at once, over all subscribers. */
  reads: 16,
  /** After the store went back, the flow goes on this much earlier: replication loses its last seconds, not more (reliability §7.1). */
  rewindMs: 10_000,
  /** Between two attempts against a store that fails. */
  retryMs: 500,
} as const;

export type FeedLimits = { readonly [Name in keyof typeof FEED_LIMITS]: number };

export interface FeedLog {
  info(facts: Record<string, unknown>, event: string): void;
  warn(facts: Record<string, unknown>, event: string): void;
}
