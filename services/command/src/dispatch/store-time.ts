/** Keeps the process's idea of store time fresh: asks Redis for TIME at an interval and feeds RedisClock. The same question tells whether the
 *  store answers at all, which readiness wants to know.
 *  Store away: the clock goes on from its last offset (clocks drift by less than a millisecond per second); `fresh` turns false. */

import { guarded, type RedisClock, type RedisConnection } from '@lapi-broker/redis';

export const STORE_TIME_INTERVAL_MS = 2_000;
/** Three answers missed. */
const STALE_MS = 3 * STORE_TIME_INTERVAL_MS + 500;

export class StoreTimeKeeper {
  readonly name = 'store time';
  readonly #connection: RedisConnection;
  readonly #clock: RedisClock;
  readonly #monotonicMs: () => number;
  #answeredAtMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #stopped: boolean = false;

  constructor(connection: RedisConnection, clock: RedisClock, monotonicMs: () => number) {
    this.#connection = connection;
    this.#clock = clock;
    this.#monotonicMs = monotonicMs;
  }

  get fresh(): boolean {
    return this.#monotonicMs() - this.#answeredAtMs < STALE_MS;
  }

  async start(): Promise<void> {
    await this.#ask();
    this.#schedule();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#ask()
        .catch(() => undefined) // Seen as `fresh` false, and reported by the connection.
        .finally(() => this.#schedule());
    }, STORE_TIME_INTERVAL_MS);
  }

  async #ask(): Promise<void> {
    const sentMs = this.#monotonicMs();
    const [seconds, micros] = await guarded(this.#connection.time());
    const receivedMs = this.#monotonicMs();
    this.#clock.observe(Number(seconds) * 1000 + Math.floor(Number(micros) / 1000), sentMs, receivedMs);
    this.#answeredAtMs = receivedMs;
  }
}
