/** What a fleet has lived through: counters and answer times, in bounded memory however long it runs. Pure. */

export interface TallyCounts {
  online: number;
  offline: number;
  failed: number;
  callsReceived: number;
  callsAnswered: number;
  eventsSent: number;
  eventsAcked: number;
  /** Answered with a code other than 0. */
  eventsRefused: number;
  /** Unanswered within the deadline, or the connection was lost before. */
  eventsUnanswered: number;
  /** Could not be sent: offline or too much waiting. */
  eventsUnsent: number;
  keepalivesAnswered: number;
  keepalivesMissed: number;
}

export function emptyCounts(): TallyCounts {
  return {
    online: 0,
    offline: 0,
    failed: 0,
    callsReceived: 0,
    callsAnswered: 0,
    eventsSent: 0,
    eventsAcked: 0,
    eventsRefused: 0,
    eventsUnanswered: 0,
    eventsUnsent: 0,
    keepalivesAnswered: 0,
    keepalivesMissed: 0,
  };
}

const BUCKETS_PER_OCTAVE = 16;
const SMALLEST_MS = 0.01;
const BUCKETS = 32 * BUCKETS_PER_OCTAVE;

/** Durations in buckets that grow by 4.4 %, so that a percentile is at most that much too high. */
export class Durations {
  readonly #counts = new Uint32Array(BUCKETS);
  #total = 0;

  get total(): number {
    return this.#total;
  }

  add(ms: number): void {
    const index = Math.ceil(Math.log2(Math.max(ms, SMALLEST_MS) / SMALLEST_MS) * BUCKETS_PER_OCTAVE);
    const bucket = Math.min(BUCKETS - 1, index);
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#total += 1;
  }

  /** Upper edge of the bucket that holds the percentile (0..100]; undefined without a value. */
  percentile(percent: number): number | undefined {
    if (this.#total === 0) return undefined;
    let left = Math.ceil((this.#total * percent) / 100);
    for (let index = 0; index < BUCKETS; index += 1) {
      left -= this.#counts[index] ?? 0;
      if (left <= 0) return SMALLEST_MS * 2 ** (index / BUCKETS_PER_OCTAVE);
    }
    return undefined;
  }

  clear(): void {
    this.#counts.fill(0);
    this.#total = 0;
  }
}

/** Counts per word, for at most 64 different words; the rest is counted as `other`. */
export class Reasons {
  readonly #counts = new Map<string, number>();

  add(reason: string): void {
    const word = this.#counts.has(reason) || this.#counts.size < 64 ? reason : 'other';
    this.#counts.set(word, (this.#counts.get(word) ?? 0) + 1);
  }

  /** Most frequent first. */
  top(limit: number): readonly (readonly [reason: string, count: number])[] {
    return [...this.#counts].sort(([, left], [, right]) => right - left).slice(0, limit);
  }
}
