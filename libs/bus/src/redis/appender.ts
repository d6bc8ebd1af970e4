/** Writes events to the streams: collects those of one tick, sends them to each master in one go, and keeps the order within a shard.
 *
 *  A shard has at most one batch under way. What Redis certainly did not store (not connected, slot moved, still loading) is sent again, in
 *  order, until the event's time is up; what may have been stored is never sent again, but rejected, and only its owner knows whether to repeat.
 *  Bounds: waiting bytes; an event waits at most `appendTimeoutMs` to be sent, then one command time-out for its answer. */

import { BrokerError, type EventRecord, toStreamFields } from '@lapi-broker/protocol';
import {
  hasMoved,
  type Keyspace,
  type NodeConnection,
  nodeFor,
  notDone,
  type RedisConnection,
  refreshTopology,
  toBrokerError,
} from '@lapi-broker/redis';
import { deferred } from '../deferred.ts';
import type { EntryId } from '../event-stream.ts';

export interface AppenderOptions {
  readonly state: RedisConnection;
  readonly keyspace: Keyspace;
  readonly maxLength: number;
  readonly appendTimeoutMs: number;
  readonly maxWaitingBytes: number;
  readonly monotonicMs: () => number;
}

interface Waiting {
  readonly fields: readonly (string | Buffer)[];
  readonly bytes: number;
  readonly dueMs: number;
  readonly resolve: (id: EntryId) => void;
  readonly reject: (error: unknown) => void;
}

interface Lane {
  readonly shard: number;
  readonly key: string;
  waiting: Waiting[];
  busy: boolean;
  /** Not before this, because the store has just refused. */
  resumeMs: number;
}

/** Between attempts while a store is away or a slot moves. */
const RETRY_MS = 50;
/** Of one shard in one go: bounds what a slow answer holds up. */
const MAX_BATCH_EVENTS = 256;
const MAX_BATCH_BYTES = 4 * 2 ** 20;
/** Everything but the body: what an entry costs beside it, roughly. */
const ENTRY_OVERHEAD_BYTES = 256;
/** Refusals that pass: the same entry may be taken a moment later. Others (OOM, MISCONF) must reach the device at once. */
const PASSING = /^(?:MOVED|ASK|TRYAGAIN|CLUSTERDOWN|LOADING|READONLY|MASTERDOWN|Stream isn't writeable)/;

export class Appender {
  readonly #options: AppenderOptions;
  readonly #lanes: readonly Lane[];
  #waitingBytes = 0;
  #flush: NodeJS.Immediate | undefined;
  #retry: NodeJS.Timeout | undefined;
  #stopped: boolean = false;

  constructor(options: AppenderOptions) {
    this.#options = options;
    const { keyspace } = options;
    this.#lanes = Array.from({ length: keyspace.shards }, (_, shard) => ({
      shard,
      key: keyspace.events(shard),
      waiting: [],
      busy: false,
      resumeMs: 0,
    }));
  }

  append(event: EventRecord): Promise<EntryId> {
    const bytes = event.data.byteLength + ENTRY_OVERHEAD_BYTES;
    const { keyspace, maxWaitingBytes, appendTimeoutMs, monotonicMs } = this.#options;
    const lane = this.#lanes[keyspace.shardOf(event.code)];
    if (lane === undefined || this.#stopped || this.#waitingBytes + bytes > maxWaitingBytes) {
      return Promise.reject(new BrokerError('broker_unavailable', 'Too many events wait for Redis.'));
    }
    const { promise, resolve, reject } = deferred<EntryId>();
    this.#waitingBytes += bytes;
    lane.waiting.push({
      fields: toStreamFields(event),
      bytes,
      dueMs: monotonicMs() + appendTimeoutMs,
      resolve,
      reject,
    });
    this.#flush ??= setImmediate(() => this.#sendAll());
    return promise;
  }

  /** Rejects what waits; answers under way still count. Idempotent. */
  stop(): void {
    this.#stopped = true;
    clearImmediate(this.#flush);
    clearTimeout(this.#retry);
    this.#flush = undefined;
    this.#retry = undefined;
    for (const lane of this.#lanes) {
      for (const waiting of lane.waiting.splice(0)) this.#giveUp(waiting, undefined);
    }
  }

  #sendAll(): void {
    clearImmediate(this.#flush);
    this.#flush = undefined;
    const nodes = new Map<NodeConnection, Lane[]>();
    const { state, monotonicMs } = this.#options;
    const now = monotonicMs();
    let away = false;
    for (const lane of this.#lanes) {
      if (lane.busy || lane.waiting.length === 0) continue;
      const node = lane.resumeMs > now ? undefined : nodeFor(state, lane.key);
      if (node === undefined) {
        this.#expire(lane, now);
        away ||= lane.waiting.length > 0;
        continue;
      }
      const lanes = nodes.get(node);
      if (lanes === undefined) nodes.set(node, [lane]);
      else lanes.push(lane);
    }
    for (const [node, lanes] of nodes) this.#send(node, lanes);
    if (away) this.#retryLater();
  }

  #retryLater(): void {
    if (this.#stopped) return;
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#sendAll();
    }, RETRY_MS);
  }

  #send(node: NodeConnection, lanes: readonly Lane[]): void {
    const { maxLength } = this.#options;
    const pipeline = node.pipeline();
    const batches = lanes.map((lane) => {
      const batch = takeBatch(lane);
      lane.busy = true;
      for (const { fields } of batch) pipeline.xadd(lane.key, 'MAXLEN', '~', maxLength, '*', ...fields);
      return { lane, batch };
    });
    pipeline.exec().then(
      (results) => {
        let next = 0;
        for (const { lane, batch } of batches) {
          this.#settle(lane, batch, results?.slice(next, next + batch.length) ?? []);
          next += batch.length;
        }
        this.#sendAll();
      },
      (error: unknown) => {
        for (const { lane, batch } of batches)
          this.#settle(
            lane,
            batch,
            batch.map(() => [asError(error), undefined]),
          );
        this.#sendAll();
      },
    );
  }

  #settle(lane: Lane, batch: readonly Waiting[], results: readonly [Error | null, unknown][]): void {
    lane.busy = false;
    // Only the end of a batch may be sent again: an event must not be stored behind a later one.
    let keep = batch.length;
    while (keep > 0 && passes(results[keep - 1]?.[0])) keep--;
    const again = batch.slice(keep);
    if (again.length > 0) {
      if (hasMoved(results[keep]?.[0])) refreshTopology(this.#options.state);
      lane.waiting.unshift(...again);
      lane.resumeMs = this.#options.monotonicMs() + RETRY_MS;
    }
    for (const [index, waiting] of batch.slice(0, keep).entries()) {
      const [error, id] = results[index] ?? [new Error('no answer'), undefined];
      if (error === null) {
        this.#waitingBytes -= waiting.bytes;
        waiting.resolve(String(id));
      } else {
        this.#giveUp(waiting, error);
      }
    }
  }

  #expire(lane: Lane, now: number): void {
    // In order of their deadlines, because all wait equally long.
    while (lane.waiting[0] !== undefined && (this.#stopped || lane.waiting[0].dueMs <= now)) {
      const overdue = lane.waiting.shift();
      if (overdue !== undefined) this.#giveUp(overdue, undefined);
    }
  }

  #giveUp(waiting: Waiting, cause: unknown): void {
    this.#waitingBytes -= waiting.bytes;
    waiting.reject(
      cause === undefined
        ? new BrokerError('broker_unavailable', 'Redis could not be reached in time to store an event.')
        : toBrokerError(cause),
    );
  }
}

function takeBatch(lane: Lane): readonly Waiting[] {
  let bytes = 0;
  let count = 0;
  for (const waiting of lane.waiting) {
    bytes += waiting.bytes;
    if (count > 0 && (count === MAX_BATCH_EVENTS || bytes > MAX_BATCH_BYTES)) break;
    count++;
  }
  return lane.waiting.splice(0, count);
}

function passes(error: Error | null | undefined): boolean {
  return error != null && notDone(error) && PASSING.test(error.message);
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
