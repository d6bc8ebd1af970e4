/** Removes pictures whose time is over, whole hours at once. Every process looks from time to time; the first one takes a lock for the rest of
 *  the interval and sweeps, so one does it, and another one goes on when that has gone. Two at once would do no harm.
 *  Image store or Redis away: counted, and tried again with the next interval. Nothing depends on a picture being gone. */

import { hourOf, type ImageStore } from '@lapi-broker/image';
import { guarded, type Keyspace, type RedisConnection } from '@lapi-broker/redis';
import type { Part } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';

const HOUR_MS = 3_600_000;

export interface ImageRetentionOptions {
  readonly store: Pick<ImageStore, 'sweep'>;
  /** How long a picture is kept at least; it is gone an hour and an interval later. */
  readonly hours: number;
  readonly intervalMs: number;
  /** True if this process may sweep in the next `ms`. */
  readonly lock: (ms: number) => Promise<boolean>;
  readonly nowMs: () => number;
  readonly random: () => number;
  readonly onSwept: (hours: number) => void;
  readonly onFailure: () => void;
  readonly log: Pick<Log, 'info' | 'warn'>;
}

export class ImageRetention implements Part {
  readonly name = 'image retention';
  readonly #options: ImageRetentionOptions;
  #timer: NodeJS.Timeout | undefined;
  #stopping: AbortController | undefined;
  #turn: Promise<void> = Promise.resolve();

  constructor(options: ImageRetentionOptions) {
    this.#options = options;
  }

  start(): void {
    if (this.#stopping !== undefined) return;
    this.#stopping = new AbortController();
    this.#next(this.#stopping.signal);
  }

  async stop(): Promise<void> {
    this.#stopping?.abort();
    this.#stopping = undefined;
    clearTimeout(this.#timer);
    await this.#turn;
  }

  #next(signal: AbortSignal): void {
    if (signal.aborted) return;
    const { intervalMs, random } = this.#options;
    this.#timer = setTimeout(
      () => {
        this.#turn = this.#sweep(signal).finally(() => this.#next(signal));
      },
      intervalMs * (0.5 + random() / 2),
    );
  }

  /** Never rejects. */
  async #sweep(signal: AbortSignal): Promise<void> {
    const { store, hours, intervalMs, lock, nowMs, onSwept, onFailure, log } = this.#options;
    try {
      if (!(await lock(intervalMs / 2))) return;
      // The last picture of an hour came at its end.
      const swept = await store.sweep(hourOf(nowMs() - hours * HOUR_MS), signal);
      onSwept(swept);
      if (swept > 0) log.info({ hours: swept }, 'images.swept');
    } catch (error) {
      if (signal.aborted) return;
      onFailure();
      log.warn({ err: error }, 'images.sweep_failed');
    }
  }
}

export function createSweepLock(
  connection: RedisConnection,
  keyspace: Pick<Keyspace, 'lock'>,
  holder: string,
): ImageRetentionOptions['lock'] {
  return async (ms) =>
    (await guarded(connection.set(keyspace.lock('images'), holder, 'PX', Math.ceil(ms), 'NX'))) === 'OK';
}
