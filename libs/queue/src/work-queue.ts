/** Answers "see to <id> at about this time, on whichever process is there": BullMQ behind three verbs. It carries wake-ups, never truth.
 *
 *  What holds: an id that was added is handled by one process at about its time, usually once. What does not: it may be handled twice (the
 *  store forgot that it was done), by two processes at once (one was paused longer than its lock), early or late (a delay runs on the clocks
 *  of the adding and of the handling process), or never (its process was killed while handling it, the store lost its last writes). So
 *  handlers look at the truth and at the time of Redis before they act, and a sweeper looks for what is overdue. Nothing is tried again:
 *  repetition belongs to who knows whether it is safe.
 *
 *  An id that waits or is being handled already is not added again, whatever the new delay; where the time matters, put it in the id. The id
 *  of a handler that was killed stays taken until its lock has ended and a worker has noticed: about 25 s.
 *  Redis away: `add` rejects with `broker_unavailable` within two seconds or so, and may have been done; the worker waits, reports
 *  `queue.error`, and goes on by itself. Nothing of what handlers or the store throw leaves from here. */

import { setMaxListeners } from 'node:events';
import { BrokerError } from '@lapi-broker/protocol';
import {
  type ConnectionEvent,
  connected,
  dropConnection,
  openConnection,
  type RedisConnection,
  type RedisSettings,
  toBrokerError,
  withDeadline,
} from '@lapi-broker/redis';
import { Queue, Worker } from 'bullmq';
import { jobIdOf } from './job-id.ts';
import { workerBackend } from './worker-backend.ts';

export interface WorkQueueOptions {
  /** `commandTimeoutMs` bounds `add`. */
  readonly redis: RedisSettings;
  /** Part of the keys; 1–32 of a–z 0–9 -. */
  readonly name: string;
  /** `keyspace.queue(name)`: all keys of a queue share its hash tag. */
  readonly prefix: string;
  /** Handlers at once in this process. */
  readonly concurrency: number;
  /** Resolves when the id has been seen to. `signal` aborts when the queue stops, which then waits 3 s for it. A handler that never ends keeps
   *  its place. */
  readonly handler: (id: string, signal: AbortSignal) => Promise<void>;
  /** A process that is silent for longer (dead, paused) is taken for dead, and what it was handling is forgotten. Default 15,000. */
  readonly lockMs?: number;
  /** `queue.handler_failed {queue, id, err}` for each; `queue.stalled {queue, id}` a killed process was handling it, and it is forgotten;
   *  `queue.error {queue, error, suppressed}` at most once in 5 s; and the events of connections. Must not throw. */
  readonly onEvent?: ConnectionEvent;
}

export interface WorkQueue {
  /** Rejects with `broker_unavailable` when Redis cannot be reached within 5 s. Idempotent. */
  start(): Promise<void>;
  /** Resolves when Redis has it, or had it already. Asks for at most 7 days; later times are cut to that, so handlers look at the time. */
  add(id: string, after: { readonly delayMs: number }): Promise<void>;
  /** Takes no more work, aborts what runs, waits 3 s for it, and closes the connections. What runs may add until it has ended, for others to
   *  go on. Idempotent; never rejects. */
  stop(): Promise<void>;
}

const CONNECT_DEADLINE_MS = 5_000;
const STOP_DEADLINE_MS = 3_000;
const CUT_DEADLINE_MS = 1_000;
const MAX_DELAY_MS = 7 * 86_400_000;
/** Renewed every half of it. */
const LOCK_MS = 15_000;
/** How often each worker looks for locks that have ended, in parts of their life; it takes two looks to be sure. */
const LOOKS_PER_LOCK = 3;
/** How long an idle worker waits for work in one command, in seconds as Redis takes it. */
const IDLE_WAIT_S = 5;
/** After a lost connection. */
const RETRY_DELAY_MS = 1_000;
/** BullMQ writes each step to a stream that nobody reads here. */
const KEPT_STEPS = 100;
const ERROR_REPORT_INTERVAL_MS = 5_000;
const NAME = /^[a-z0-9-]{1,32}$/;

/** Opens nothing yet. Throws RangeError for a name that is none. */
export function openWorkQueue(options: WorkQueueOptions): WorkQueue {
  if (!NAME.test(options.name)) throw new RangeError('the name of a queue is 1–32 of a–z 0–9 -');
  return new BullWorkQueue(options);
}

interface Opened {
  readonly producer: RedisConnection;
  readonly queue: Queue;
  readonly worker: Worker;
  readonly bookkeeping: RedisConnection;
  readonly waiting: RedisConnection;
}

class BullWorkQueue implements WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #stopping = new AbortController();
  /** Bounded by the concurrency. */
  readonly #running = new Set<Promise<void>>();
  #starting: Promise<Opened> | undefined;
  #opened: Opened | undefined;
  #stopped: Promise<void> | undefined;
  #errorsReportedMs = Number.NEGATIVE_INFINITY;
  #errorsSuppressed = 0;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
    // One listener for each handler that runs.
    setMaxListeners(0, this.#stopping.signal);
  }

  async start(): Promise<void> {
    this.#starting ??= this.#open();
    this.#opened = await this.#starting;
  }

  async add(id: string, { delayMs }: { readonly delayMs: number }): Promise<void> {
    const jobId = jobIdOf(id);
    const opened = this.#opened;
    // Asked while the store is away, BullMQ would wait for it, for ever and in any number.
    if (opened?.producer.status !== 'ready') {
      throw new BrokerError('broker_unavailable', `The queue ${this.#options.name} has no connection to Redis.`);
    }
    const delay = Math.round(Math.min(Math.max(delayMs, 0), MAX_DELAY_MS));
    const added = opened.queue.add('id', id, {
      jobId,
      delay,
      attempts: 1,
      // What stayed would refuse the same id for ever.
      removeOnComplete: true,
      removeOnFail: true,
      stackTraceLimit: 0,
    });
    try {
      await withDeadline(added, this.#options.redis.commandTimeoutMs);
    } catch (error) {
      throw toBrokerError(error);
    }
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#close();
    return this.#stopped;
  }

  async #open(): Promise<Opened> {
    const { redis, name, prefix, concurrency, lockMs = LOCK_MS, onEvent } = this.#options;
    const producer = openConnection(redis, 'state', onEvent);
    const bookkeeping = openConnection(redis, 'worker', onEvent);
    const waiting = openConnection(redis, 'reader', onEvent);
    try {
      await Promise.all([producer, bookkeeping, waiting].map((each) => connected(each, CONNECT_DEADLINE_MS)));
      const queue = new Queue(name, {
        connection: producer,
        prefix,
        // A version that was not told would refuse all work of this process; ours was checked with the first connection.
        skipVersionCheck: true,
        streams: { events: { maxLen: KEPT_STEPS } },
      });
      queue.on('error', (error) => this.#report(error));
      const worker = new Worker(
        name,
        (job) => this.#run(String(job.data)),
        {
          connection: bookkeeping,
          prefix,
          concurrency,
          autorun: false,
          lockDuration: lockMs,
          stalledInterval: lockMs / LOOKS_PER_LOCK,
          // Work of a killed process is not handed to another: it may have been done (I7).
          maxStalledCount: 0,
          drainDelay: IDLE_WAIT_S,
          runRetryDelay: RETRY_DELAY_MS,
          removeOnComplete: { count: 0 },
          removeOnFail: { count: 0 },
        },
        await workerBackend(bookkeeping, waiting, this.#stopping.signal),
      );
      worker.on('error', (error) => this.#report(error));
      worker.on('failed', (job) => onEvent?.('queue.stalled', { queue: name, id: job?.data }));
      worker.run().catch((error: unknown) => this.#report(error));
      return { producer, queue, worker, bookkeeping, waiting };
    } catch (error) {
      await Promise.all([producer, bookkeeping, waiting].map((each) => dropConnection(each)));
      throw toBrokerError(error);
    }
  }

  async #run(id: string): Promise<void> {
    const running = this.#handle(id);
    this.#running.add(running);
    await running;
    this.#running.delete(running);
  }

  /** Never fails: for BullMQ all work is done, because a failed job would be kept or tried again by rules that are not ours. */
  async #handle(id: string): Promise<void> {
    const { name, handler, onEvent } = this.#options;
    try {
      await handler(id, this.#stopping.signal);
    } catch (error) {
      onEvent?.('queue.handler_failed', { queue: name, id, err: error });
    }
  }

  async #close(): Promise<void> {
    this.#stopping.abort();
    const opened = await this.#starting?.catch(() => undefined);
    if (opened === undefined) return;
    const { worker, queue, producer, bookkeeping, waiting } = opened;
    const closed = worker.close();
    await dropConnection(waiting);
    await withDeadline(Promise.all(this.#running), STOP_DEADLINE_MS).catch(() => undefined);
    // What ended is told to the store, if it is there.
    if (bookkeeping.status === 'ready') await withDeadline(closed, CUT_DEADLINE_MS).catch(() => undefined);
    await Promise.all([producer, bookkeeping].map((each) => dropConnection(each)));
    await withDeadline(Promise.all([closed, queue.close()]), CUT_DEADLINE_MS).catch(() => undefined);
  }

  /** They come in storms while the store is away. */
  #report(error: unknown): void {
    const now = performance.now();
    if (this.#stopping.signal.aborted || now - this.#errorsReportedMs < ERROR_REPORT_INTERVAL_MS) {
      this.#errorsSuppressed++;
      return;
    }
    const suppressed = this.#errorsSuppressed;
    this.#errorsReportedMs = now;
    this.#errorsSuppressed = 0;
    const text = error instanceof Error ? error.message : String(error);
    this.#options.onEvent?.('queue.error', { queue: this.#options.name, error: text, suppressed });
  }
}
