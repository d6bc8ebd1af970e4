/** EventStream inside one process, for tests and for a broker in one process: same order, ids, bounds and trimming as with Redis, nothing
 *  durable. Never away and never shorter than a position, so `onRewound` is never called. */

import { BrokerError, type EventRecord } from '@lapi-broker/protocol';
import type { Keyspace } from '@lapi-broker/redis';
import {
  compareEntryIds,
  type EntryId,
  type EventStream,
  type StreamBounds,
  type StreamEntry,
  type Tail,
  type Trimmed,
  ZERO_ID,
} from '../event-stream.ts';
import { DEFAULT_RETENTION, ENTRY_BYTES, type Retention } from '../retention.ts';

export interface MemoryEventStreamOptions {
  readonly retention?: Retention;
  readonly nowMs?: () => number;
}

interface Shard {
  entries: StreamEntry[];
  last: EntryId;
  lastMs: number;
  added: number;
  /** Of the entries that are there. */
  bytes: number;
}

interface Follower {
  readonly positions: EntryId[];
  readonly onEntries: (shard: number, entries: readonly StreamEntry[]) => void;
}

const TAIL_BATCH = 256;

export class MemoryEventStream implements EventStream {
  readonly shards: number;
  readonly #keyspace: Keyspace;
  readonly #retention: Retention;
  readonly #nowMs: () => number;
  readonly #shards: Shard[];
  readonly #followers = new Set<Follower>();
  #wake: NodeJS.Immediate | undefined;

  constructor(keyspace: Keyspace, options: MemoryEventStreamOptions = {}) {
    this.shards = keyspace.shards;
    this.#keyspace = keyspace;
    this.#retention = options.retention ?? DEFAULT_RETENTION;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#shards = Array.from({ length: keyspace.shards }, () => ({
      entries: [],
      last: ZERO_ID,
      lastMs: 0,
      added: 0,
      bytes: 0,
    }));
  }

  append(event: EventRecord): Promise<EntryId> {
    const index = this.#keyspace.shardOf(event.code);
    const shard = this.#shard(index);
    shard.lastMs = Math.max(shard.lastMs, this.#nowMs());
    shard.added++;
    shard.last = `${shard.lastMs}-${shard.added}`;
    shard.bytes += bytesOf(event);
    // A copy, because the store keeps what it was given at the time of the call.
    shard.entries.push({ shard: index, id: shard.last, event: { ...event, data: Buffer.from(event.data) } });
    this.#trim(shard);
    if (this.#followers.size > 0) this.#wake ??= setImmediate(() => this.#callBack());
    return Promise.resolve(shard.last);
  }

  read(shard: number, after: EntryId, count: number): Promise<readonly StreamEntry[]> {
    return Promise.resolve(this.#after(shard, after, count));
  }

  bounds(shard: number): Promise<StreamBounds> {
    const { last, entries, added } = this.#shard(shard);
    return Promise.resolve({ last, first: entries[0]?.id, added, length: entries.length });
  }

  trim(shard: number, maxAgeMs?: number): Promise<Trimmed> {
    const found = this.#shard(shard);
    const trimmed = this.#trim(found, maxAgeMs);
    return Promise.resolve({ trimmed, entries: found.entries.length, bytes: found.bytes });
  }

  tail(
    from: ReadonlyMap<number, EntryId>,
    onEntries: (shard: number, entries: readonly StreamEntry[]) => void,
    _onRewound?: (shard: number, to: EntryId) => void,
  ): Promise<Tail> {
    const follower: Follower = { positions: this.#shards.map(({ last }, shard) => from.get(shard) ?? last), onEntries };
    this.#followers.add(follower);
    this.#wake ??= setImmediate(() => this.#callBack());
    return Promise.resolve({
      close: () => {
        this.#followers.delete(follower);
        return Promise.resolve();
      },
    });
  }

  #trim(shard: Shard, keptMs = Number.POSITIVE_INFINITY): number {
    const { maxAgeMs, maxBytes } = this.#retention;
    const oldestMs = this.#nowMs() - Math.min(keptMs, maxAgeMs);
    let trimmed = 0;
    for (const { id, event } of shard.entries) {
      const fits = shard.bytes <= maxBytes || id === shard.last;
      if (fits && Number.parseInt(id, 10) >= oldestMs) break;
      shard.bytes -= bytesOf(event);
      trimmed++;
    }
    shard.entries.splice(0, trimmed);
    return trimmed;
  }

  #callBack(): void {
    this.#wake = undefined;
    for (const follower of this.#followers) {
      for (let shard = 0; shard < this.shards; shard++) {
        for (;;) {
          const entries = this.#after(shard, follower.positions[shard] ?? ZERO_ID, TAIL_BATCH);
          const newest = entries.at(-1);
          if (newest === undefined) break;
          follower.positions[shard] = newest.id;
          follower.onEntries(shard, entries);
        }
      }
    }
  }

  #after(shard: number, after: EntryId, count: number): readonly StreamEntry[] {
    const { entries, last } = this.#shard(shard);
    if (compareEntryIds(after, last) >= 0) return [];
    const start = entries.findIndex(({ id }) => compareEntryIds(id, after) > 0);
    return start < 0 ? [] : entries.slice(start, start + count);
  }

  #shard(index: number): Shard {
    const shard = this.#shards[index];
    if (shard === undefined) throw new BrokerError('internal', `Shard ${index} does not exist.`);
    return shard;
  }
}

function bytesOf(event: EventRecord): number {
  return event.data.byteLength + Buffer.byteLength(event.images) + ENTRY_BYTES;
}
