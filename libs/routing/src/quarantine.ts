/** Decides when a device is kept away because its sessions end for misbehaviour: more than `limit` such ends within `windowMs`, and nobody
 *  registers with its code for `holdMs`. The device proved its secret each time, so nobody else can bring that about; and it would go on for
 *  ever, because devices come back after each end. The window slides. release.lua holds the same decision for Redis. */

import type { OfflineReason } from './owner-registry.ts';

export interface Quarantine {
  /** Ends that are let through within the window; few, because their times lie in the row. */
  readonly limit: number;
  readonly windowMs: number;
  readonly holdMs: number;
}

export const QUARANTINE: Quarantine = { limit: 5, windowMs: 60_000, holdMs: 60_000 };

const MISBEHAVIOUR: ReadonlySet<OfflineReason> = new Set([
  'overflow',
  'too_big',
  'bad_utf8',
  'bad_frame',
  'bad_json',
  'unmasked',
]);

export function isMisbehaviour(reason: OfflineReason): boolean {
  return MISBEHAVIOUR.has(reason);
}

/** One more session ended for misbehaviour: the ends that count now, this one included, those of a clock that went back since not; more than `limit` of them is too many. */
export function countEnds(endsMs: readonly number[], { windowMs }: Quarantine, nowMs: number): readonly number[] {
  return [...endsMs.filter((at) => at > nowMs - windowMs && at <= nowMs), nowMs];
}
