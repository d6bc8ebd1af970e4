/** Decides what to do about a schedule whose time has come, or came while nobody was there: fire the latest moment if it is not too old, count
 *  the others. Pure. */

import { nextFiring, type Timetable } from './cron.ts';

export interface FiringPlan {
  /** The moment to carry out now; undefined when nothing is due, or all of it too late. */
  readonly fireAtMs: number | undefined;
  /** The last moment that has passed; undefined when none has. */
  readonly latestMs: number | undefined;
  /** The first moment that is not due yet. */
  readonly nextAtMs: number;
  /** Moments that passed and are not carried out; at least, where there were more than a hundred. */
  readonly missed: number;
}

const MAX_COUNTED = 100;

/** `nextAtMs`: the first moment that was not dealt with. */
export function planFiring(
  schedule: Timetable & { readonly nextAtMs: number; readonly graceMs: number },
  nowMs: number,
): FiringPlan {
  const { graceMs } = schedule;
  let passed = 0;
  let latestMs: number | undefined;
  let { nextAtMs } = schedule;
  while (nextAtMs <= nowMs) {
    passed += 1;
    latestMs = nextAtMs;
    // Of very many only those are looked at that may still fire.
    const fromMs = passed < MAX_COUNTED ? nextAtMs : Math.max(nextAtMs, nowMs - graceMs - 1);
    nextAtMs = nextFiring(schedule, fromMs);
  }
  const isInTime = latestMs !== undefined && nowMs - latestMs <= graceMs;
  return { fireAtMs: isInTime ? latestMs : undefined, latestMs, nextAtMs, missed: isInTime ? passed - 1 : passed };
}
