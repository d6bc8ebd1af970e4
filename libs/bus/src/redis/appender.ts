/** Writes events to the streams: collects those of one tick, stores those of each shard with one script call, and keeps the order within a
 *  shard.
 *
 *  A shard has at most one batch under way; its events are stored together or not at all. What Redis certainly did not store (not connected,
 *  slot moved, still loading) is sent again, in order, until the event's time is up; what may have been stored is never sent again, but
 *  rejected, and only its owner knows whether to repeat. Rejected as well is what no replica confirms, where that is asked for.
 *  Bytes in a dead line arrive when it lives again. So no batch is stored later than `SENT_MS` after it was sent, by the time of Redis, and as
 *  long as one whose end is unknown may still be stored, its shard waits: what is stored is in order, whatever happened to the line (D7, I5).
 *  Bounds: waiting bytes; an event waits at most `appendTimeoutMs` to be sent, then one command time-out for its answer, and one WAIT. */

import { BrokerError, type EventRecord, toStreamFields } from '@lapi-broker/protocol';
import {
  createNodeScript,
  hasMoved,
  type Keyspace,
  type NodeConnection,
  nodeFor,
  notDone,
  type RedisClock,
  type RedisConnection,
  ReplicaBarrier,
  refreshTopology,
  type ScriptArgument,
  toBrokerError,
} from '@lapi-broker/redis';
import { deferred } from '../deferred.ts';
import type { EntryId } from '../event-stream.ts';
import { ENTRY_BYTES, type Retention } from '../retention.ts';

export interface AppenderOptions {
  /** Where `confirmed` is set it should carry nothing else, because WAIT holds up what is behind it. */
  readonly connection: RedisConnection;
  /** Does an append resolve only when a replica has it? */
  readonly confirmed: boolean;
  readonly keyspace: Keyspace;
  readonly retention: Retention;
  readonly appendTimeoutMs: number;
  readonly maxWaitingBytes: number;
  readonly monotonicMs: () => number;
  /** Without it, or before it knows the time, what is given up may still be stored later. */
  readonly redisClock: RedisClock | undefined;
}

interface Waiting {
  readonly fields: readonly (string | Buffer)[];
  /** Of data and pictures. */
  readonly contentBytes: number;
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
  /** Not before this, because the store has just refused, or may still store what was given up. */
  resumeMs: number;
}

/** Between attempts while a store is away or a slot moves. */
const RETRY_MS = 50;
/** For which a batch may be on its way. */
const SENT_MS = 2_000;
/** Of one shard in one go: bounds what a slow answer holds up. */
const MAX_BATCH_EVENTS = 256;
const MAX_BATCH_BYTES = 4 * 2 ** 20;
/** Refusals that pass: the same entry may be taken a moment later. Others (OOM, MISCONF) must reach the device at once. */
const PASSING = /^(?:MOVED|ASK|TRYAGAIN|CLUSTERDOWN|LOADING|READONLY|MASTERDOWN|Stream isn't writeable)/;

const APPEND = new URL('./append.lua', import.meta.url);
const UNCONFIRMED = new Error('no replica has confirmed the event in time');
const LATE = new Error('the event was too long on its way to Redis');

export class Appender {
  readonly #options: AppenderOptions;
  readonly #script = createNodeScript(APPEND);
  readonly #barrier: ReplicaBarrier;
  readonly #lanes: readonly Lane[];
  #waitingBytes = 0;
  #flush: NodeJS.Immediate | undefined;
  #retry: NodeJS.Timeout | undefined;
  #stopped: boolean = false;

  constructor(options: AppenderOptions) {
    this.#options = options;
    const { keyspace } = options;
    this.#barrier = new ReplicaBarrier(options.connection, options.confirmed);
    this.#lanes = Array.from({ length: keyspace.shards }, (_, shard) => ({
      shard,
      key: keyspace.events(shard),
      waiting: [],
      busy: false,
      resumeMs: 0,
    }));
  }

  append(event: EventRecord): Promise<EntryId> {
    const contentBytes = event.data.byteLength + Buffer.byteLength(event.images);
    const bytes = contentBytes + ENTRY_BYTES;
    const { keyspace, maxWaitingBytes, appendTimeoutMs, monotonicMs } = this.#options;
    const lane = this.#lanes[keyspace.shardOf(event.code)];
    if (lane === undefined || this.#stopped || this.#waitingBytes + bytes > maxWaitingBytes) {
      return Promise.reject(new BrokerError('broker_unavailable', 'Too many events wait for Redis.'));
    }
    const { promise, resolve, reject } = deferred<EntryId>();
    this.#waitingBytes += bytes;
    lane.waiting.push({
      fields: toStreamFields(event),
      contentBytes,
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
    const { connection, monotonicMs } = this.#options;
    const now = monotonicMs();
    let away = false;
    for (const lane of this.#lanes) {
      if (lane.busy || lane.waiting.length === 0) continue;
      const node = lane.resumeMs > now ? undefined : nodeFor(connection, lane.key);
      if (node === undefined) {
        this.#expire(lane, now);
        away ||= lane.waiting.length > 0;
      } else {
        void this.#send(node, lane);
      }
    }
    if (away) this.#retryLater();
  }

  #retryLater(): void {
    if (this.#stopped) return;
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#sendAll();
    }, RETRY_MS);
  }

  /** Never rejects. */
  async #send(node: NodeConnection, lane: Lane): Promise<void> {
    const { connection, retention, monotonicMs, redisClock } = this.#options;
    const { stream } = node;
    const batch = takeBatch(lane);
    const sentMs = monotonicMs();
    const isTimed = redisClock?.known === true;
    const notAfterMs = isTimed ? Math.floor(redisClock.nowMs() + SENT_MS) : 0;
    const args: ScriptArgument[] = [retention.maxAgeMs, retention.maxBytes, notAfterMs];
    for (const { contentBytes, fields } of batch) args.push(contentBytes, fields.length, ...fields);
    lane.busy = true;
    let failure: unknown;
    let firstId: EntryId = '';
    try {
      firstId = String(await this.#script(node, [lane.key, `${lane.key}:count`], args));
      if (firstId === 'LATE') failure = LATE;
    } catch (error) {
      failure = error;
    }
    lane.busy = false;
    const again = failure !== undefined && (failure === LATE || passes(failure));
    if (again) {
      if (hasMoved(failure)) refreshTopology(connection);
      lane.waiting.unshift(...batch);
      lane.resumeMs = monotonicMs() + RETRY_MS;
    } else if (failure !== undefined && isTimed && !notDone(failure)) {
      lane.resumeMs = sentMs + SENT_MS + 2 * redisClock.maxErrorMs();
    }
    // What has come meanwhile leaves after this turn, together with what other shards have.
    if (this.#stopped) this.#expire(lane, monotonicMs());
    else if (lane.waiting.length > 0) this.#flush ??= setImmediate(() => this.#sendAll());
    if (again) return;
    if (failure === undefined && !(await this.#isConfirmed(lane, node, stream))) failure = UNCONFIRMED;
    if (failure === undefined) this.#resolve(batch, firstId);
    else for (const waiting of batch) this.#giveUp(waiting, failure);
  }

  /** Of what has just been stored over this TCP connection: over another one, WAIT would speak for writes that it never saw. */
  async #isConfirmed(lane: Lane, node: NodeConnection, stream: NodeConnection['stream']): Promise<boolean> {
    const { connection, confirmed } = this.#options;
    if (!confirmed) return true;
    return nodeFor(connection, lane.key) === node && node.stream === stream && (await this.#barrier.confirm(lane.key));
  }

  #resolve(batch: readonly Waiting[], firstId: EntryId): void {
    const [ms, number] = firstId.split('-');
    const first = Number(number);
    for (const [index, waiting] of batch.entries()) {
      this.#waitingBytes -= waiting.bytes;
      waiting.resolve(`${ms}-${first + index}`);
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

function passes(error: unknown): boolean {
  return error instanceof Error && notDone(error) && PASSING.test(error.message);
}
