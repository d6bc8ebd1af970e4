/** Keeps schedules. A firing is a compare-and-set on the moment that was due: of all processes that carried it out, one moves the schedule on.
 *  Store away: every method rejects with `broker_unavailable`, and may have been done. */

import type { Firing, ScheduleRecord, ScheduleSpec } from './schedule.ts';

export interface Advance {
  /** The moment that was due. */
  readonly fromMs: number;
  readonly nextAtMs: number;
  readonly last: Firing;
  readonly missed: number;
}

export interface ScheduleStore {
  put(id: string, spec: ScheduleSpec, nextAtMs: number | undefined): Promise<'stored' | 'full'>;
  read(id: string): Promise<ScheduleRecord | undefined>;
  /** In the order of making, from after the id. */
  list(after: string | undefined, limit: number): Promise<readonly ScheduleRecord[]>;
  /** False when it is not due at `fromMs` any more: another process was first, or it was paused or removed. */
  advance(id: string, advance: Advance): Promise<boolean>;
  /** Undefined pauses. `same`: it is paused, or not paused, already; then nothing changes. */
  steer(id: string, nextAtMs: number | undefined): Promise<'steered' | 'same' | 'gone'>;
  remove(id: string): Promise<boolean>;
  /** Ids of schedules whose moment is at or before that time, oldest moment first. */
  due(atMs: number, limit: number): Promise<readonly string[]>;
}
