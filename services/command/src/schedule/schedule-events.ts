/** Tells event subscribers what schedules do: kinds `schedule.fired` and `schedule.failed`, with an empty `code`, because a schedule belongs to no
 *  device. Written after the schedule was moved on, to the stream of one fixed shard: a hint, at least once is not promised; the schedule
 *  itself is the truth. Never rejects. */

import type { EventStream } from '@lapi-broker/bus';
import type { DeviceCode, Epoch } from '@lapi-broker/protocol';
import type { Firing, ScheduleRecord } from './schedule.ts';

export interface ScheduleEventsParts {
  readonly stream: Pick<EventStream, 'append'>;
  readonly nowMs: () => number;
  readonly onFailure: (error: unknown) => void;
}

const NO_DEVICE = '' as DeviceCode;

export class ScheduleEvents {
  readonly #parts: ScheduleEventsParts;

  constructor(parts: ScheduleEventsParts) {
    this.#parts = parts;
  }

  tell({ id, name }: Pick<ScheduleRecord, 'id' | 'name'>, firing: Firing, missed: number): void {
    const { stream, nowMs, onFailure } = this.#parts;
    const { atMs, ...result } = firing;
    const data = { id, name, at: new Date(atMs).toISOString(), ...result, ...(missed > 0 ? { missed } : {}) };
    stream
      .append({
        code: NO_DEVICE,
        kind: firing.status === 'fired' ? 'schedule.fired' : 'schedule.failed',
        url: '',
        at: Math.floor(nowMs()),
        epoch: 0 as Epoch,
        session: '',
        seq: 0,
        tags: [],
        dedupKey: `${id}@${atMs}`,
        data: Buffer.from(JSON.stringify(data)),
      })
      .catch(onFailure);
  }
}
