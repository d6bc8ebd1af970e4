/** Answers "may this node start one more registration now?" Asked at step 1 only: the nonce it hands out is the ticket, so step 2 of an
 *  admitted device is served even under overload (otherwise success would fall with the square of the admission rate). Pure. */

export type Admission = { readonly status: 'admitted' } | { readonly status: 'refused'; readonly retryAfterS: number };

const LEAST_RETRY_S = 2;
const MOST_RETRY_S = 120;

export class AdmissionBucket {
  private readonly ratePerSecond: number;
  private readonly burst: number;
  private tokens: number;
  private refilledMs: number;
  /** Refused since the bucket last had a token: the length of the queue that will come back. */
  private excess = 0;

  constructor(ratePerSecond: number, nowMs: number) {
    this.ratePerSecond = ratePerSecond;
    this.burst = ratePerSecond * 2;
    this.tokens = this.burst;
    this.refilledMs = nowMs;
  }

  /** `random` in [0, 1) spreads the returns (protocol S15). */
  ask(nowMs: number, random: number): Admission {
    this.tokens = Math.min(this.burst, this.tokens + ((nowMs - this.refilledMs) / 1_000) * this.ratePerSecond);
    this.refilledMs = nowMs;
    if (this.tokens >= 1) {
      this.tokens -= 1;
      this.excess = Math.max(0, this.excess - 1);
      return { status: 'admitted' };
    }
    this.excess += 1;
    const spread = Math.ceil(Math.ceil(this.excess / this.ratePerSecond) * (0.5 + random));
    return { status: 'refused', retryAfterS: Math.min(MOST_RETRY_S, Math.max(LEAST_RETRY_S, spread)) };
  }
}
