/** Answers "may this node start one more registration now, and when is it told?" Asked at step 1 only: the nonce it hands out is the ticket,
 *  so step 2 of an admitted device is served even under overload (otherwise success would fall with the square of the admission rate).
 *  Once most of the burst is used, answers are held back for a random while: the registrations that follow them come spread, and a device that
 *  ignores Retry-After asks every few seconds and not as fast as it can.
 *  An address that asks for much does not get the second half of the burst, so a flood from one neither keeps the others out nor has them
 *  wait (protocol L34); alone it still gets the whole rate. Bound: an entry per address admitted in the second under way. Pure. */

export type Admission = (
  | { readonly status: 'admitted' }
  | { readonly status: 'refused'; readonly retryAfterS: number }
) & {
  /** How long the answer is held back, ms. */
  readonly holdMs: number;
};

/** Who was admitted this part of the rate within a second asks for much. */
const MUCH = 0.2;
/** This part of the burst is for those who do not. More than MUCH and LITTLE together, or a flood would have others wait. */
const KEPT = 0.5;
/** Answers are held back while no more than this part of the burst is left. */
const LITTLE = 0.3;
/** With the longest hold a registration still ends within its deadline (protocol H12). */
export const LONGEST_HOLD_MS = 4_000;
const LEAST_RETRY_S = 2;
const MOST_RETRY_S = 120;

export class AdmissionBucket {
  private readonly ratePerSecond: number;
  private readonly burst: number;
  private tokens: number;
  private refilledMs: number;
  /** Refused since the bucket last had a token: the length of the queue that will come back. */
  private excess = 0;
  /** How often each address was admitted in the second under way. */
  private readonly admitted = new Map<string, number>();
  private second = 0;

  constructor(ratePerSecond: number, nowMs: number) {
    this.ratePerSecond = ratePerSecond;
    this.burst = ratePerSecond * 2;
    this.tokens = this.burst;
    this.refilledMs = nowMs;
  }

  /** `random` in [0, 1) spreads the answers and the returns (protocol S15). */
  ask(address: string, nowMs: number, random: number): Admission {
    this.tokens = Math.min(this.burst, this.tokens + ((nowMs - this.refilledMs) / 1_000) * this.ratePerSecond);
    this.refilledMs = nowMs;
    const second = Math.floor(nowMs / 1_000);
    if (second !== this.second) {
      this.second = second;
      this.admitted.clear();
    }
    const before = this.admitted.get(address) ?? 0;
    const kept = before >= this.ratePerSecond * MUCH ? this.burst * KEPT : 0;
    const left = this.tokens - kept;
    if (left >= 1) {
      const busy = left < (this.burst - kept) * LITTLE;
      this.tokens -= 1;
      this.admitted.set(address, before + 1);
      this.excess = Math.max(0, this.excess - 1);
      return { status: 'admitted', holdMs: busy ? random * LONGEST_HOLD_MS : 0 };
    }
    this.excess += 1;
    const spread = Math.ceil(Math.ceil(this.excess / this.ratePerSecond) * (0.5 + random));
    const retryAfterS = Math.min(MOST_RETRY_S, Math.max(LEAST_RETRY_S, spread));
    return { status: 'refused', retryAfterS, holdMs: random * LONGEST_HOLD_MS };
  }
}
