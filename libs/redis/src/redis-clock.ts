/** Answers "what time is it for Redis?" without asking it: the one clock that processes on different machines share (deadlines, `notAfter`).
 *
 *  Each exchange bounds the offset between Redis time and our monotonic clock: Redis read its clock after we sent and before we received.
 *  Bounds of several exchanges are intersected, each widened for the time that passed, because clocks drift. An exchange that contradicts
 *  them means that the clock was set or that another server answers; then only the new one counts.
 *  Pure: the monotonic clock is a parameter, nothing is asked from here. Before the first exchange `nowMs` throws `broker_unavailable`. */

import { BrokerError } from '@lapi-broker/protocol';

/** Two ordinary quartz clocks against each other, slewed by NTP. */
const DRIFT = 600e-6;

export class RedisClock {
  readonly #monotonicMs: () => number;
  /** Redis time minus monotonic time lay between these when `#seenMs` was; undefined before the first exchange. */
  #offset: { readonly low: number; readonly high: number } | undefined;
  #seenMs = 0;

  constructor(monotonicMs: () => number = () => performance.now()) {
    this.#monotonicMs = monotonicMs;
  }

  get known(): boolean {
    return this.#offset !== undefined;
  }

  /** `redisTimeMs` in whole milliseconds, as TIME and the scripts give it; the other two by the monotonic clock of the constructor. */
  observe(redisTimeMs: number, sentMonotonicMs: number, receivedMonotonicMs: number): void {
    const fresh = { low: redisTimeMs - receivedMonotonicMs, high: redisTimeMs + 1 - sentMonotonicMs };
    const old = this.#offset;
    const drifted = Math.max(0, receivedMonotonicMs - this.#seenMs) * DRIFT;
    this.#seenMs = receivedMonotonicMs;
    if (old === undefined) {
      this.#offset = fresh;
      return;
    }
    const low = Math.max(fresh.low, old.low - drifted);
    const high = Math.min(fresh.high, old.high + drifted);
    this.#offset = low <= high ? { low, high } : fresh;
  }

  /** Best estimate, ms since the epoch; off by at most `maxErrorMs`. May step by that much when a new exchange comes in. */
  nowMs(): number {
    const offset = this.#offset;
    if (offset === undefined) throw new BrokerError('broker_unavailable', 'The time of Redis is not known yet.');
    return this.#monotonicMs() + (offset.low + offset.high) / 2;
  }

  /** Half the width of what is possible, which grows until the next exchange; infinite before the first. */
  maxErrorMs(): number {
    const offset = this.#offset;
    if (offset === undefined) return Number.POSITIVE_INFINITY;
    return (offset.high - offset.low) / 2 + Math.max(0, this.#monotonicMs() - this.#seenMs) * DRIFT;
  }
}
