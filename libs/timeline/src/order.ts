/** The order in which a timeline is read, the same for both forms. Pure. */

import type { DeviceTimeline, RefusalEntry, SessionEntry } from './timeline.ts';

/** Newest first; of a session that was written twice, once. */
export function inOrder(sessions: readonly SessionEntry[], refusals: readonly RefusalEntry[]): DeviceTimeline {
  const once = new Map(sessions.map((entry) => [entry.session, entry]));
  return {
    sessions: [...once.values()].sort((a, b) => endOf(b) - endOf(a) || b.epoch - a.epoch),
    refusals: [...refusals].sort((a, b) => b.lastAtMs - a.lastAtMs),
  };
}

function endOf({ endedAtMs }: SessionEntry): number {
  return endedAtMs ?? Number.POSITIVE_INFINITY;
}
