/** What a schedule is: a timetable, what to do at each of its moments, and what became of the last one. The words and shapes; when it is due is
 *  cron.ts and firing-plan.ts, doing it schedule-runner.ts. */

import type { LaneName } from '@lapi-broker/lane';
import type { CommandId, DeviceCode, ErrorCode, LapiMethod } from '@lapi-broker/protocol';
import type { JobOrder } from '../job/job-order.ts';
import type { Timetable } from './cron.ts';

/** One command for one device, through its lane. */
export interface ScheduledCommand {
  readonly code: DeviceCode;
  readonly method: LapiMethod;
  /** RequestURL; the path policy has judged it for the one who made the schedule. */
  readonly url: string;
  /** JSON text of `Data`; empty = `{}`. */
  readonly data: string;
  readonly lane: LaneName;
  readonly timeoutMs: number;
  /** From the moment of each firing. */
  readonly ttlMs: number;
  readonly maxAttempts: number;
  readonly backoffMs: number;
  readonly coalesceKey?: string;
}

/** A job, made anew at each moment; filters are resolved then. */
export type ScheduledJob = Pick<JobOrder, 'name' | 'command' | 'pace' | 'targets'> & {
  readonly data: string;
  readonly ttlMs: number;
};

export type ScheduledWork =
  | { readonly kind: 'command'; readonly command: ScheduledCommand }
  | { readonly kind: 'job'; readonly job: ScheduledJob };

/** What became of one moment. `atMs` is the moment of the timetable, not when it was carried out. */
export type Firing =
  | { readonly status: 'fired'; readonly atMs: number; readonly command: CommandId }
  | { readonly status: 'fired'; readonly atMs: number; readonly job: string }
  | { readonly status: 'failed'; readonly atMs: number; readonly error: ErrorCode; readonly detail: string }
  /** Nobody was there, or the store was away, for longer than the grace time. */
  | { readonly status: 'missed'; readonly atMs: number };

/** Everything about a schedule that never changes. */
export interface ScheduleSpec extends Timetable {
  readonly name: string;
  readonly work: ScheduledWork;
  /** How late a moment may be carried out. */
  readonly graceMs: number;
  /** Id of the API key that made it, on whose behalf it fires. */
  readonly keyId: string;
  readonly createdAtMs: number;
}

/** Times are Redis time, ms since the epoch. */
export interface ScheduleRecord extends ScheduleSpec {
  readonly id: string;
  /** The first moment that was not dealt with; undefined while paused. */
  readonly nextAtMs: number | undefined;
  readonly last: Firing | undefined;
  /** Moments that were not carried out, since it was made. */
  readonly missed: number;
}

/** 9 digits of time, in base 36 until the year 5188, so that the order of ids is the order of making; and 11 random ones. */
export function newScheduleId(nowMs: number, random: () => string): string {
  return Math.floor(nowMs).toString(36).padStart(9, '0') + random();
}
