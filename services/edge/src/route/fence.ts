/** Answers, synchronously, "may this node still write to devices?" (D8). The lease was confirmed by a renewal; what counts is when that
 *  renewal was *sent*, and one that needed too long does not count. Timers are no fence: after a pause the first queued message is
 *  handled before any timer, so this is asked right before every write. Pure. */

export class Fence {
  private readonly afterMs: number;
  private confirmedSentMs = Number.NEGATIVE_INFINITY;
  private lapsed = false;

  constructor(afterMs: number) {
    this.afterMs = afterMs;
  }

  /** A renewal sent at `sentMs` was confirmed at `nowMs` (monotonic). */
  confirm(sentMs: number, nowMs: number): void {
    if (nowMs - sentMs > this.afterMs || sentMs <= this.confirmedSentMs) return;
    this.confirmedSentMs = sentMs;
    this.lapsed = false;
  }

  lapse(): void {
    this.lapsed = true;
  }

  holds(nowMs: number): boolean {
    return !this.lapsed && nowMs - this.confirmedSentMs < this.afterMs;
  }

  /** Since when no renewal was confirmed, ms. A lapse makes it no older: the store was there to tell. */
  ageMs(nowMs: number): number {
    return nowMs - this.confirmedSentMs;
  }
}
