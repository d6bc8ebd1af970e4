/** The consumers of one group that wait in this process, served one after the other in the order of their coming. While somebody waits it
 *  listens to the live feed for events that match, so that a pull is answered at once; what the feed does not tell (another consumer's
 *  acknowledgement, a deadline in another process) is found by looking again, seldom when nothing is out.
 *  Store away: the pull under way is rejected with `broker_unavailable`, and so are those behind it: one after the other they would wait for
 *  its time-outs. */

import type { Delivery, PullOptions } from './group.ts';
import type { HandedOut } from './hand-out.ts';

export interface GroupLineParts {
  readonly handOut: (max: number, maxBytes: number | undefined) => Promise<HandedOut>;
  /** Gives back what nobody takes any more. Never rejects. */
  readonly release: (deliveries: readonly Delivery[]) => Promise<void>;
  /** Calls back when an event may be there for the group, until it is told to stop; undefined when nobody would. Never rejects. */
  readonly listen: (onEvent: () => void) => Promise<(() => void) | undefined>;
  readonly monotonicMs: () => number;
}

interface Waiting {
  readonly max: number;
  readonly maxBytes: number | undefined;
  readonly dueMs: number;
  readonly resolve: (deliveries: readonly Delivery[]) => void;
  readonly reject: (error: unknown) => void;
  ended: boolean;
}

/** Between looks while somebody waits and nothing is heard. */
const POLL_MS = 500;
/** The same when nothing is out, so that only a new event can be something to hand out, and those are heard. */
const QUIET_POLL_MS = 5_000;
const MIN_PAUSE_MS = 2;
/** Of one group in one process. */
export const MAX_WAITING = 1_000;

export class GroupLine {
  readonly #parts: GroupLineParts;
  #waiting: Waiting[] = [];
  #serving: boolean = false;
  #heard: boolean = false;
  #wake: (() => void) | undefined;
  #stopped: boolean = false;

  constructor(parts: GroupLineParts) {
    this.#parts = parts;
  }

  get isIdle(): boolean {
    return !this.#serving;
  }

  get isStopped(): boolean {
    return this.#stopped;
  }

  get isFull(): boolean {
    return this.#waiting.length >= MAX_WAITING;
  }

  pull({ max, waitMs, signal, maxBytes }: PullOptions): Promise<readonly Delivery[]> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true || this.#stopped) {
        resolve([]);
        return;
      }
      const dueMs = this.#parts.monotonicMs() + waitMs;
      const end = (): boolean => {
        signal?.removeEventListener('abort', leave);
        const first = !waiting.ended;
        waiting.ended = true;
        return first;
      };
      const leave = (): void => {
        if (!end()) return;
        resolve([]);
        this.wake();
      };
      const waiting: Waiting = {
        max,
        maxBytes,
        dueMs,
        ended: false,
        resolve: (deliveries) => {
          if (end()) resolve(deliveries);
        },
        reject: (error) => {
          if (end()) reject(error);
        },
      };
      signal?.addEventListener('abort', leave);
      this.#waiting.push(waiting);
      if (!this.#serving) void this.#serve();
      else this.wake();
    });
  }

  /** Something may be there. */
  wake(): void {
    this.#heard = true;
    this.#wake?.();
  }

  /** Everybody gets nothing. Idempotent. */
  stop(): void {
    this.#stopped = true;
    for (const waiting of this.#waiting) waiting.resolve([]);
    this.wake();
  }

  /** Runs as long as somebody waits. Never rejects. */
  async #serve(): Promise<void> {
    this.#serving = true;
    let silence: (() => void) | undefined;
    try {
      for (;;) {
        this.#waiting = this.#waiting.filter((each) => !each.ended);
        const [first] = this.#waiting;
        if (first === undefined) return;
        this.#heard = false;
        let found: HandedOut;
        try {
          found = await this.#parts.handOut(first.max, first.maxBytes);
        } catch (error) {
          for (const each of this.#waiting) each.reject(error);
          continue;
        }
        if (found.deliveries.length > 0) {
          await this.#give(found.deliveries);
          continue;
        }
        const nowMs = this.#parts.monotonicMs();
        for (const each of this.#waiting) if (each.dueMs <= nowMs) each.resolve([]);
        const left = this.#waiting.filter((each) => !each.ended);
        if (left.length === 0) continue;
        // Listens before the next look, so that nothing comes in between.
        const isListening = silence !== undefined;
        silence ??= await this.#parts.listen(() => this.wake());
        if (!isListening && silence !== undefined) continue;
        const pollMs = isListening && found.againMs === undefined ? QUIET_POLL_MS : POLL_MS;
        await this.#pause(Math.min(pollMs, found.againMs ?? pollMs, ...left.map((each) => each.dueMs - nowMs)));
      }
    } finally {
      silence?.();
      this.#serving = false;
      // Whoever came in between would wait for nobody.
      if (this.#waiting.some((each) => !each.ended)) void this.#serve();
    }
  }

  /** To the first that still waits and wants so many; the one it was taken for may have left. */
  async #give(deliveries: readonly Delivery[]): Promise<void> {
    const taker = this.#waiting.find((each) => !each.ended && each.max >= deliveries.length);
    if (taker === undefined) await this.#parts.release(deliveries);
    else taker.resolve(deliveries);
  }

  async #pause(ms: number): Promise<void> {
    if (this.#heard || this.#stopped) return;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      timer = setTimeout(resolve, Math.max(MIN_PAUSE_MS, ms));
    });
    clearTimeout(timer);
    this.#wake = undefined;
  }
}
