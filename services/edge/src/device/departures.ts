/** Sessions that this node ends in order that their devices go elsewhere: one that departs takes no further call, what is out may still be
 *  answered and stored (5 s at most), its event subscription is ended, its ownership released, then it is closed with 1001. Nothing is cut
 *  off before its time, and nothing waits longer than that. Store away: it is closed all the same, its release is repeated later. Driven by `look`, without timers; bound: one entry per session.
 *  Who departs, why and when is decided in drain.ts and rebalance.ts. */

import type { OfflineReason } from '@lapi-broker/routing';
import { FINISH_MS } from '../limits.ts';
import type { Session } from './session.ts';

interface Departure {
  readonly reason: OfflineReason;
  /** Until then what is out may be finished. */
  readonly finishUntilMs: number;
  /** What was out is finished: its subscription is ended. What came meanwhile is finished as well: it is released, and closed. */
  step: 'finishing' | 'unsubscribing' | 'unsubscribed' | 'releasing';
}

const CLOSE_GOING_AWAY = 1001;

export class Departures {
  /** Departed so far. */
  gone = 0;
  private readonly leaving = new Map<Session, Departure>();
  private readonly release: (session: Session, reason: OfflineReason) => Promise<void>;

  /** `release` never rejects. */
  constructor(release: (session: Session, reason: OfflineReason) => Promise<void>) {
    this.release = release;
  }

  get size(): number {
    return this.leaving.size;
  }

  /** Refuses its further calls from now on. */
  begin(session: Session, reason: OfflineReason, nowMs: number): void {
    if (!session.isOpen || this.leaving.has(session)) return;
    session.leaving = true;
    session.refuseWaiting('node_draining');
    this.leaving.set(session, { reason, finishUntilMs: nowMs + FINISH_MS, step: 'finishing' });
  }

  /** Does what is due; after `endsMs` nobody is waited for any more. */
  look(nowMs: number, endsMs: number): void {
    for (const [session, departure] of this.leaving) {
      if (!session.isOpen) this.departed(session);
      else if (nowMs >= endsMs) this.close(session, departure);
      else if (session.isIdle || nowMs >= departure.finishUntilMs) this.goOn(session, departure);
    }
  }

  private goOn(session: Session, departure: Departure): void {
    if (departure.step === 'finishing' && session.subscription !== undefined) {
      departure.step = 'unsubscribing';
      void session.subscription.remove().then(() => {
        departure.step = 'unsubscribed';
      });
    } else if (departure.step === 'finishing' || departure.step === 'unsubscribed') {
      departure.step = 'releasing';
      void this.takeLeave(session, departure);
    }
  }

  private async takeLeave(session: Session, departure: Departure): Promise<void> {
    // Before the close: a device that is back at once would else take over from a session that lives, and be counted as one that flaps.
    if (session.isOpen) await this.release(session, departure.reason);
    if (session.isOpen) this.close(session, departure);
  }

  private close(session: Session, { reason }: Departure): void {
    session.close(CLOSE_GOING_AWAY, reason === 'rebalanced' ? 'rebalanced' : 'node draining', reason);
    this.departed(session);
  }

  private departed(session: Session): void {
    if (this.leaving.delete(session)) this.gone++;
  }
}
