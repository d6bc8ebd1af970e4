/** Answers "how often did this address or this code fail to register lately, and what follows?" (protocol F13, F14).
 *  Failing answers are delayed per address and per code; only an address can be refused, because anyone could lock a device out otherwise.
 *  A valid registration is never delayed. Bound: `capacity` entries, the oldest forgotten first. Pure. */

const WINDOW_MS = 60_000;
const LONGEST_DELAY_MS = 5_000;

export interface FailurePolicy {
  /** Failures in a minute after which answers are delayed. */
  readonly beforeDelay: number;
  /** Failures in a minute after which an address is refused. */
  readonly beforeRefusal: number;
  readonly capacity: number;
}

interface Count {
  startedMs: number;
  failures: number;
}

export class FailureLog {
  private readonly policy: FailurePolicy;
  private readonly addresses = new Map<string, Count>();
  private readonly codes = new Map<string, Count>();

  constructor(policy: FailurePolicy) {
    this.policy = policy;
  }

  /** Is the address over its hard limit (F14)? */
  refuses(address: string, nowMs: number): boolean {
    return this.failures(this.addresses, address, nowMs) >= this.policy.beforeRefusal;
  }

  /** Counts one failure; answers how long its answer is held back, ms (F13). */
  record(address: string, code: string | undefined, nowMs: number): number {
    const byAddress = this.count(this.addresses, address, nowMs);
    const byCode = code === undefined ? 0 : this.count(this.codes, code, nowMs);
    const over = Math.max(byAddress, byCode) - this.policy.beforeDelay;
    return over <= 0 ? 0 : Math.min(over * 1_000, LONGEST_DELAY_MS);
  }

  private failures(counts: Map<string, Count>, key: string, nowMs: number): number {
    const count = counts.get(key);
    return count === undefined || nowMs - count.startedMs > WINDOW_MS ? 0 : count.failures;
  }

  private count(counts: Map<string, Count>, key: string, nowMs: number): number {
    const known = counts.get(key);
    if (known !== undefined && nowMs - known.startedMs <= WINDOW_MS) return ++known.failures;
    counts.delete(key);
    if (counts.size >= this.policy.capacity) {
      const oldest = counts.keys().next();
      if (!oldest.done) counts.delete(oldest.value);
    }
    counts.set(key, { startedMs: nowMs, failures: 1 });
    return 1;
  }
}
