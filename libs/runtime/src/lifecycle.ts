/** Starts the parts of a process in order, lets them drain, stops them in reverse order.
 *  A start that fails is undone: the failing part and all before it are stopped, then the first error is thrown.
 *  Each stop has a deadline and each drain ends at the common one; errors and overruns there are logged, never thrown, so one bad
 *  part cannot keep the others from releasing what they hold.
 *  Every method is idempotent: a second call joins the first. A lifecycle runs once; after stop() it cannot be started again.
 *  Not done here: signals and exit codes (run-process.ts), and what draining means (each part's own). */
import { type Clock, systemClock } from './clock.ts';

export interface Part {
  readonly name: string;
  /** Acquires. Must bound its own waits. */
  start?(): Promise<void> | void;
  /** Refuses new work and finishes the old within `deadlineMs` (a span, not a time of day). */
  drain?(deadlineMs: number): Promise<void> | void;
  /** Releases, also after a start that failed half way or a drain that never ran. Idempotent. */
  stop?(): Promise<void> | void;
}

export interface LifecycleLog {
  info(facts: Record<string, unknown>, event: string): void;
  warn(facts: Record<string, unknown>, event: string): void;
  error(facts: Record<string, unknown>, event: string): void;
}

export interface LifecycleOptions {
  /** For the stop of each part. */
  readonly stopMs?: number;
  readonly clock?: Clock;
}

export type LifecycleState = 'new' | 'starting' | 'running' | 'draining' | 'stopping' | 'stopped';

const NEXT: Record<LifecycleState, readonly LifecycleState[]> = {
  new: ['starting', 'stopping'],
  starting: ['running', 'stopping'],
  running: ['draining', 'stopping'],
  draining: ['stopping'],
  stopping: ['stopped'],
  stopped: [],
};

type Ended =
  | { readonly status: 'done' }
  | { readonly status: 'overdue' }
  | { readonly status: 'failed'; readonly error: unknown };

export class Lifecycle {
  readonly #parts: readonly Part[];
  readonly #log: LifecycleLog;
  readonly #stopMs: number;
  readonly #clock: Clock;
  #state: LifecycleState = 'new';
  /** Parts whose start was called, in that order. */
  readonly #touched: Part[] = [];
  #starting: Promise<void> | undefined;
  #draining: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;

  constructor(parts: readonly Part[], log: LifecycleLog, options: LifecycleOptions = {}) {
    this.#parts = parts;
    this.#log = log;
    this.#stopMs = options.stopMs ?? 5000;
    this.#clock = options.clock ?? systemClock;
  }

  get state(): LifecycleState {
    return this.#state;
  }

  start(): Promise<void> {
    this.#starting ??= this.#startAll();
    return this.#starting;
  }

  /** Resolves when all parts drained or `deadlineMs` is over; later callers join the first call and its deadline. Does nothing unless
   *  running. */
  drain(deadlineMs: number): Promise<void> {
    if (this.#draining === undefined && this.#state !== 'running') return Promise.resolve();
    this.#draining ??= this.#drainAll(deadlineMs);
    return this.#draining;
  }

  /** Never rejects. May be called at any time, also while start or drain is under way: what remains of them is skipped. */
  stop(): Promise<void> {
    // A part in the middle of its start may still acquire; give it the time of one stop, then release it like the others.
    this.#stopping ??= this.#stopAll(this.#state === 'starting' ? this.#starting : undefined);
    return this.#stopping;
  }

  async #startAll(): Promise<void> {
    if (this.#state !== 'new') throw new Error('a stopped lifecycle cannot be started');
    this.#move('starting');
    for (const part of this.#parts) {
      this.#touched.push(part);
      try {
        await part.start?.();
      } catch (error) {
        this.#log.error({ part: part.name, err: error }, 'part.start_failed');
        // When stop() came first it waits for this start, so waiting for it here would be a circle.
        if (this.#stopping === undefined) {
          this.#stopping = this.#stopAll();
          await this.#stopping;
        }
        throw error;
      }
      if (this.#stopping !== undefined) throw new Error('stopped while starting');
      this.#log.info({ part: part.name }, 'part.started');
    }
    this.#move('running');
  }

  async #drainAll(deadlineMs: number): Promise<void> {
    this.#move('draining');
    const endMs = this.#clock.monotonicMs() + deadlineMs;
    for (const part of [...this.#parts].reverse()) {
      // stop() does not wait for a drain; the parts that follow are stopped, not drained.
      if (this.#state !== 'draining') return;
      const drain = part.drain?.bind(part);
      if (drain === undefined) continue;
      const leftMs = Math.max(0, endMs - this.#clock.monotonicMs());
      const ended = await within(leftMs, () => drain(leftMs));
      if (ended.status === 'failed') this.#log.error({ part: part.name, err: ended.error }, 'part.drain_failed');
      else if (ended.status === 'overdue') this.#log.warn({ part: part.name, deadlineMs }, 'part.drain_overdue');
      else this.#log.info({ part: part.name }, 'part.drained');
    }
  }

  async #stopAll(startInProgress?: Promise<void>): Promise<void> {
    this.#move('stopping');
    if (startInProgress !== undefined) await within(this.#stopMs, () => startInProgress);
    for (const part of [...this.#touched].reverse()) {
      const stop = part.stop?.bind(part);
      if (stop === undefined) continue;
      const ended = await within(this.#stopMs, stop);
      if (ended.status === 'failed') this.#log.error({ part: part.name, err: ended.error }, 'part.stop_failed');
      else if (ended.status === 'overdue')
        this.#log.error({ part: part.name, stopMs: this.#stopMs }, 'part.stop_overdue');
      else this.#log.info({ part: part.name }, 'part.stopped');
    }
    this.#move('stopped');
  }

  #move(to: LifecycleState): void {
    if (!NEXT[this.#state].includes(to)) throw new Error(`lifecycle cannot go from ${this.#state} to ${to}`);
    this.#state = to;
  }
}

/** Runs `work` and waits for it, at most `deadlineMs`. Abandoned work keeps running; its late failure is swallowed on purpose, the
 *  overrun has been reported by then. */
async function within(deadlineMs: number, work: () => Promise<void> | void | undefined): Promise<Ended> {
  let timer: NodeJS.Timeout | undefined;
  const overdue = new Promise<Ended>((resolve) => {
    timer = setTimeout(() => resolve({ status: 'overdue' }), deadlineMs);
  });
  const done = (async (): Promise<Ended> => {
    try {
      await work();
      return { status: 'done' };
    } catch (error) {
      return { status: 'failed', error };
    }
  })();
  try {
    return await Promise.race([done, overdue]);
  } finally {
    clearTimeout(timer);
  }
}
