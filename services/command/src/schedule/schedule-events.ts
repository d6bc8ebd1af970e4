/** Tells event subscribers what schedules do: kinds `schedule.fired` and `schedule.failed`, with an empty `code`, because a schedule belongs to no
 *  device. Written after the schedule was moved on: a hint (announcer.ts). */

import type { Announcer } from '../event/announcer.ts';
import type { Firing, ScheduleRecord } from './schedule.ts';

export class ScheduleEvents {
  readonly #announce: Announcer;

  constructor(announce: Announcer) {
    this.#announce = announce;
  }

  tell({ id, name }: Pick<ScheduleRecord, 'id' | 'name'>, firing: Firing, missed: number): void {
    const { atMs, ...result } = firing;
    const data = { id, name, at: new Date(atMs).toISOString(), ...result, ...(missed > 0 ? { missed } : {}) };
    this.#announce(firing.status === 'fired' ? 'schedule.fired' : 'schedule.failed', data, `${id}@${atMs}`);
  }
}
