/** Timeline on Redis: two short lists per device that has a history, none for one that only stays connected. One script call per shard and
 *  batch. Redis away or full: appending fails quietly, because nothing may depend on it. */

import type { DeviceCode } from '@lapi-broker/protocol';
import { createScript, guarded, type Keyspace, type RedisConnection } from '@lapi-broker/redis';
import { MERGE_LOOK, REFUSAL_WINDOW_MS, UNKNOWN_KEEP_MS } from '../bounds.ts';
import { decodeRefusal, decodeSession, encodeRefusal, encodeSession } from '../entry-text.ts';
import { inOrder } from '../order.ts';
import type { DeviceTimeline, Timeline, TimelineEntry } from '../timeline.ts';

export interface RedisTimelineOptions {
  /** How long the list of a device is kept after its last entry. */
  readonly keepMs: number;
}

const APPEND = new URL('./append.lua', import.meta.url);
/** One call blocks its Redis for about 5 µs per entry, and sends at most so many times 2 KiB. */
const BATCH = 64;

export class RedisTimeline implements Timeline {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #keepMs: number;

  /** A state connection; the caller opens and closes it. */
  constructor(connection: RedisConnection, keyspace: Keyspace, { keepMs }: RedisTimelineOptions) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#keepMs = keepMs;
  }

  async append(entries: readonly TimelineEntry[]): Promise<readonly TimelineEntry[]> {
    const byShard = Map.groupBy(entries, ({ code }) => this.#keyspace.shardOf(code));
    const left = await Promise.all([...byShard.values()].map((ofShard) => this.#appendShard(ofShard)));
    return left.flat();
  }

  async read(code: DeviceCode): Promise<DeviceTimeline> {
    const [sessions, refusals] = await Promise.all([
      guarded(this.#connection.lrange(this.#keyspace.timeline(code), 0, -1)),
      guarded(this.#connection.lrange(this.#keyspace.refused(code), 0, -1)),
    ]);
    return inOrder(
      // Oldest first, so that of two with one session the newer text counts.
      sessions.reverse().flatMap((text) => decodeSession(code, text) ?? []),
      refusals.flatMap((text) => decodeRefusal(code, text) ?? []),
    );
  }

  async #appendShard(entries: readonly TimelineEntry[]): Promise<readonly TimelineEntry[]> {
    for (let start = 0; start < entries.length; start += BATCH) {
      try {
        await this.#appendBatch(entries.slice(start, start + BATCH));
      } catch {
        return entries.slice(start); // The caller counts what it gives up.
      }
    }
    return [];
  }

  async #appendBatch(entries: readonly TimelineEntry[]): Promise<void> {
    const keys: string[] = [];
    const args: (string | number)[] = [this.#keepMs, UNKNOWN_KEEP_MS, REFUSAL_WINDOW_MS, MERGE_LOOK];
    for (const entry of entries) {
      const { code } = entry;
      if (entry.type === 'refused') {
        const { reason, firstAtMs, lastAtMs, count } = entry;
        keys.push(this.#keyspace.refused(code));
        args.push(encodeRefusal(entry), reason, Math.round(firstAtMs), Math.round(lastAtMs), count);
      } else {
        keys.push(this.#keyspace.timeline(code));
        args.push(encodeSession(entry), '', 0, 0, 0);
      }
      keys.push(this.#keyspace.device(code));
    }
    // The number of keys differs from batch to batch; the text of the script is read once.
    await createScript(this.#connection, APPEND, keys.length)(keys, args);
  }
}
