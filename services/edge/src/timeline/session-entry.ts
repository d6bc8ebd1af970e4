/** What the timeline says about a session of this node, open or ended. Pure: both clocks are parameters. */

import type { SessionEntry } from '@lapi-broker/timeline';
import type { Session } from '../device/session.ts';
import type { FrameLog } from './frame-log.ts';

export interface Clocks {
  readonly monotonicMs: number;
  readonly redisMs: number;
}

/** `reason`: undefined while it is open. */
export function sessionEntryOf(
  session: Session,
  frames: FrameLog,
  { monotonicMs, redisMs }: Clocks,
  reason: string | undefined,
): SessionEntry {
  const offsetMs = redisMs - monotonicMs;
  return {
    type: 'session',
    code: session.code,
    session: session.id,
    node: session.node,
    epoch: session.epoch,
    address: session.address,
    openedAtMs: session.openedMs + offsetMs,
    endedAtMs: reason === undefined ? undefined : redisMs,
    reason,
    secret: session.secret,
    previous: session.previous,
    heardAtMs: session.lastFrameMs + offsetMs,
    keepalives: session.keepalives,
    frames: frames.read(session, offsetMs),
  };
}
