/** Answers "may this event wait for the store, or is there too much waiting already?" (protocol V4)
 *  What fills up first refuses the least: lossy kinds stop at half of a budget, ordinary ones at seven eighths, alarms use all of it. So
 *  while the store is slow or away, what is soon outdated gives way to what somebody must hear of. Both budgets count: that of the device,
 *  so that one device cannot take the node's, and that of the node.
 *  Time is a budget as well: where the store takes events, but slower than they come, a longer queue would only mean that each of them is
 *  stored too late for its answer, though it is stored.
 *  Where the memory of the store is nearly used up, the same order of classes holds. Pure. */

import { isLossyKind } from '@lapi-broker/protocol';
import { STORE_FULL_PERCENT } from '../limits.ts';

export type EventClass = 'lossy' | 'normal' | 'alarm';

export interface Budgets {
  readonly sessionEvents: number;
  readonly sessionBytes: number;
  readonly nodeBytes: number;
  /** How long events wait for a store that takes them; 0 when it has taken none lately, because then it may take all at once. */
  readonly waitMs: number;
}

/** Share of each budget that a class may fill. */
const SHARES: Readonly<Record<EventClass, number>> = { lossy: 1 / 2, normal: 7 / 8, alarm: 1 };

export function classOfKind(kind: string): EventClass {
  if (isLossyKind(kind)) return 'lossy';
  return kind === 'alarm' || kind.startsWith('alarm.') ? 'alarm' : 'normal';
}

/** Which budget refuses it; undefined when it may wait. `used`: what waits already. `bytes`: of this event, its overhead included. */
export function refusedBy(
  eventClass: EventClass,
  bytes: number,
  used: Budgets,
  limits: Budgets,
): 'session' | 'node' | 'wait' | undefined {
  const share = SHARES[eventClass];
  if (used.sessionEvents + 1 > share * limits.sessionEvents) return 'session';
  if (used.sessionBytes + bytes > share * limits.sessionBytes) return 'session';
  if (used.nodeBytes + bytes > share * limits.nodeBytes) return 'node';
  return used.waitMs > share * limits.waitMs ? 'wait' : undefined;
}

/** Is the store too full for events of this class? */
export function isTooFull(eventClass: EventClass, usedPercent: number): boolean {
  return eventClass !== 'alarm' && usedPercent >= STORE_FULL_PERCENT[eventClass];
}
