/** Keeps the streams of all shards within their limits, one shard after the other, each once per interval: appends trim as they go, but a shard
 *  to which nobody appends would keep its last events for ever. Every process does it; doing it twice costs little and changes nothing.
 *  While the memory of the store is tight, each round keeps events half as long, down to a minute: readers who are further behind get a gap,
 *  but what devices send now, leases and ends of commands still find room. With room again, the time that was asked for comes back as slowly.
 *  Store away: counted, and tried again with the shard's next turn; nothing is appended meanwhile either. */

import type { EventStream, Trimmed } from '@lapi-broker/bus';
import type { Part } from '@lapi-broker/runtime';

export interface EventRetentionOptions {
  readonly stream: Pick<EventStream, 'shards' | 'trim'>;
  /** Kept by default. */
  readonly maxAgeMs: number;
  /** Of one round over all shards. */
  readonly intervalMs: number;
  readonly onFailure: (error: unknown) => void;
}

/** Kept also when the store is full: readers that keep up lose nothing. */
const LEAST_AGE_MS = 60_000;

export class EventRetention implements Part {
  readonly name = 'event retention';
  readonly #options: EventRetentionOptions;
  /** What the last turn of each shard has left. */
  readonly #left: Trimmed[] = [];
  #shard = 0;
  #keptMs: number;
  #tight = false;
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> = Promise.resolve();
  #stopped: boolean = true;

  constructor(options: EventRetentionOptions) {
    this.#options = options;
    this.#keptMs = options.maxAgeMs;
  }

  /** Events kept by the whole installation, as of the last round. */
  get entries(): number {
    return this.#left.reduce((sum, { entries }) => sum + entries, 0);
  }

  /** Of these, about, as the limit counts them. */
  get bytes(): number {
    return this.#left.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** How old events may get now, ms. */
  get keptMs(): number {
    return this.#keptMs;
  }

  /** Is memory short? Holds until the next call. */
  tighten(tight: boolean): void {
    this.#tight = tight;
  }

  start(): void {
    if (!this.#stopped) return;
    this.#stopped = false;
    this.#next();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#turn;
  }

  #next(): void {
    if (this.#stopped) return;
    const { stream, intervalMs } = this.#options;
    this.#timer = setTimeout(() => {
      this.#turn = this.#trim().finally(() => this.#next());
    }, intervalMs / stream.shards);
  }

  /** Never rejects. */
  async #trim(): Promise<void> {
    const { stream, maxAgeMs, onFailure } = this.#options;
    const shard = this.#shard;
    if (shard === 0) {
      this.#keptMs = this.#tight
        ? Math.min(this.#keptMs, Math.max(LEAST_AGE_MS, this.#keptMs / 2))
        : Math.min(maxAgeMs, this.#keptMs * 2);
    }
    this.#shard = (shard + 1) % stream.shards;
    try {
      this.#left[shard] = await stream.trim(shard, this.#keptMs);
    } catch (error) {
      onFailure(error);
    }
  }
}
