/** EventStream over Redis streams, one per shard. Every entry of every writer gets its id from append-event.lua; what is over the limits goes
 *  with the appends of this class and with `trim`.
 *  What is durable is what Redis keeps: with `appendfsync everysec` or a failover, the last moments may be lost; readers are told (onRewound).
 *  With `confirmed` a failover to a replica that was up to date loses nothing that was resolved.
 *  Writing: appender.ts. Following: stream-reader.ts. Reading by position goes over the state connection. */

import type { EventRecord } from '@lapi-broker/protocol';
import { fromStreamFields } from '@lapi-broker/protocol';
import {
  type ConnectionEvent,
  createScript,
  guarded,
  type Keyspace,
  type RedisClock,
  type RedisConnection,
  type Script,
} from '@lapi-broker/redis';
import { Cursor } from '../cursor.ts';
import type { EntryId, EventStream, StreamBounds, StreamEntry, Tail, Trimmed } from '../event-stream.ts';
import { DEFAULT_RETENTION, type Retention } from '../retention.ts';
import { Appender } from './appender.ts';
import { readBounds } from './stream-info.ts';
import { StreamReader } from './stream-reader.ts';

export interface RedisEventStreamOptions {
  /** Opened by openConnection; stays its owner's to close. Connections for tails are opened and closed here. */
  readonly state: RedisConnection;
  readonly keyspace: Keyspace;
  /** For appends alone, also opened and closed by its owner; default: `state`. Needed where appends are confirmed. */
  readonly appends?: RedisConnection;
  /** Is this a deployment with replicas, one of which must have an event before its append resolves? A Cluster is asked per slot. */
  readonly confirmed?: boolean;
  /** The same for all writers; where it is not, the smallest wins. */
  readonly retention?: Retention;
  /** How long an event waits for a store that is away; one command time-out comes on top when it was sent at the last moment. */
  readonly appendTimeoutMs?: number;
  readonly maxWaitingBytes?: number;
  /** `bus.detached {role, master, error}`, `bus.listener_failed {error}`, and the events of the reader connections. */
  readonly onEvent?: ConnectionEvent;
  readonly monotonicMs?: () => number;
  /** For writers whose order must stand also when a line to Redis comes back with what was in it (D7). */
  readonly redisClock?: RedisClock;
}

const MAX_READ = 10_000;
const TRIM = new URL('./trim.lua', import.meta.url);

export class RedisEventStream implements EventStream {
  readonly shards: number;
  readonly #options: RedisEventStreamOptions;
  readonly #retention: Retention;
  readonly #appender: Appender;
  readonly #trim: Script;
  readonly #tails = new Set<Tail>();

  constructor(options: RedisEventStreamOptions) {
    this.shards = options.keyspace.shards;
    this.#options = options;
    this.#retention = options.retention ?? DEFAULT_RETENTION;
    this.#trim = createScript(options.state, TRIM, 1);
    this.#appender = new Appender({
      connection: options.appends ?? options.state,
      confirmed: options.confirmed ?? false,
      keyspace: options.keyspace,
      retention: this.#retention,
      appendTimeoutMs: options.appendTimeoutMs ?? 4000,
      maxWaitingBytes: options.maxWaitingBytes ?? 64 * 2 ** 20,
      monotonicMs: options.monotonicMs ?? (() => performance.now()),
      redisClock: options.redisClock,
    });
  }

  append(event: EventRecord): Promise<EntryId> {
    return this.#appender.append(event);
  }

  async read(shard: number, after: EntryId, count: number): Promise<readonly StreamEntry[]> {
    const { state, keyspace } = this.#options;
    const limit = Math.max(1, Math.min(count, MAX_READ));
    const entries = await guarded(state.xrangeBuffer(keyspace.events(shard), `(${after}`, '+', 'COUNT', limit));
    return entries.map(([id, fields]) => ({ shard, id: String(id), event: fromStreamFields(fields) }));
  }

  bounds(shard: number): Promise<StreamBounds> {
    return guarded(readBounds(this.#options.state, this.#options.keyspace.events(shard)));
  }

  async trim(shard: number, keptMs = Number.POSITIVE_INFINITY): Promise<Trimmed> {
    const { maxBytes } = this.#retention;
    const maxAgeMs = Math.min(keptMs, this.#retention.maxAgeMs);
    const key = this.#options.keyspace.events(shard);
    let trimmed = 0;
    for (;;) {
      const [removed, more, entries, bytes] = (await this.#trim([key], [maxAgeMs, maxBytes])) as readonly unknown[];
      trimmed += Number(removed);
      if (Number(more) === 0) return { trimmed, entries: Number(entries), bytes: Number(bytes) };
    }
  }

  async tail(
    from: ReadonlyMap<number, EntryId>,
    onEntries: (shard: number, entries: readonly StreamEntry[]) => void,
    onRewound: (shard: number, to: EntryId) => void = () => undefined,
  ): Promise<Tail> {
    const { state, keyspace, onEvent } = this.#options;
    const shards = Array.from({ length: this.shards }, (_, shard) => shard);
    const cursors = await Promise.all(
      shards.map(async (shard) => new Cursor(shard, from.get(shard) ?? (await this.bounds(shard)).last)),
    );
    const reader = new StreamReader({ state, keyspace, onEvent, onEntries, onRewound }, cursors);
    reader.start();
    const tail: Tail = {
      close: async () => {
        this.#tails.delete(tail);
        await reader.close();
      },
    };
    this.#tails.add(tail);
    return tail;
  }

  /** Closes all tails and rejects appends that wait. Idempotent. */
  async stop(): Promise<void> {
    this.#appender.stop();
    await Promise.all([...this.#tails].map((tail) => tail.close()));
  }
}
