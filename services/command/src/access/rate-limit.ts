/** Answers "may this key make one more request?" with one token bucket per key, in this process only: a brake against runaway
 *  clients, not an account. Pure in time: the caller brings the clock. Bounded by `maxKeys`; the bucket that was used longest ago goes. */

interface Bucket {
  tokens: number;
  atMs: number;
}

export class RateLimit {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #maxKeys: number;
  readonly #buckets = new Map<string, Bucket>();

  /** `perSecond` 0 switches the limit off. */
  constructor(perSecond: number, burst: number, maxKeys: number) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#maxKeys = maxKeys;
  }

  /** 0 when the request may go on, else the ms until a token is there. */
  take(key: string, nowMs: number): number {
    if (this.#perSecond === 0) return 0;
    let bucket = this.#buckets.get(key);
    if (bucket === undefined) {
      this.#makeRoom();
      bucket = { tokens: this.#burst, atMs: nowMs };
      this.#buckets.set(key, bucket);
    }
    bucket.tokens = Math.min(this.#burst, bucket.tokens + ((nowMs - bucket.atMs) / 1000) * this.#perSecond);
    bucket.atMs = nowMs;
    if (bucket.tokens < 1) return Math.ceil(((1 - bucket.tokens) / this.#perSecond) * 1000);
    bucket.tokens -= 1;
    return 0;
  }

  #makeRoom(): void {
    if (this.#buckets.size < this.#maxKeys) return;
    let oldest: string | undefined;
    let oldestMs = Number.POSITIVE_INFINITY;
    for (const [key, bucket] of this.#buckets) {
      if (bucket.atMs < oldestMs) [oldest, oldestMs] = [key, bucket.atMs];
    }
    if (oldest !== undefined) this.#buckets.delete(oldest);
  }
}
