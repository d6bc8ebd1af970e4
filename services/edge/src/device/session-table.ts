/** The sessions of this node by DeviceCode. Of two sessions of one device the higher epoch stays, whichever came first (D3, I1):
 *  a claim that was overtaken while its upgrade was on its way must not replace the newer session. */

import type { DeviceCode } from '@lapi-broker/protocol';
import type { Session } from './session.ts';

export class SessionTable {
  /** Sessions entered since the start. */
  opened = 0;
  private readonly byCode = new Map<DeviceCode, Session>();

  get size(): number {
    return this.byCode.size;
  }

  get(code: DeviceCode): Session | undefined {
    return this.byCode.get(code);
  }

  values(): IterableIterator<Session> {
    return this.byCode.values();
  }

  /** Enters a session; answers the one that lost, which may be `session` itself. */
  enter(session: Session): Session | undefined {
    const present = this.byCode.get(session.code);
    if (present !== undefined && present.epoch > session.epoch) return session;
    this.byCode.set(session.code, session);
    this.opened++;
    return present;
  }

  /** Forgets exactly this session: a late close never removes its successor (D4). */
  leave(session: Session): void {
    if (this.byCode.get(session.code) === session) this.byCode.delete(session.code);
  }
}
