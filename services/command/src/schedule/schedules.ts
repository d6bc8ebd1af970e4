/** Schedules as platforms see them: made, read, paused, resumed, removed. The one way in; firing is schedule-runner.ts.
 *  What a caller was told is in the store, and where there are replicas in one of them. Resuming goes on with the next moment from now; what passed
 *  meanwhile is not made up for.
 *  Store away, or no replica in time: methods reject with `broker_unavailable`; a change may have been made then. Not done here: who may, and what a path may be (routes). */

import { BrokerError } from '@lapi-broker/protocol';
import { nextFiring } from './cron.ts';
import { newScheduleId, type ScheduleRecord, type ScheduleSpec } from './schedule.ts';
import type { ScheduleStore } from './schedule-store.ts';

export interface SchedulesParts {
  readonly store: Pick<ScheduleStore, 'put' | 'read' | 'list' | 'steer' | 'remove'>;
  /** Has a replica what was written? */
  readonly confirm: () => Promise<boolean>;
  /** Of the store. */
  readonly nowMs: () => number;
  /** 11 characters `[0-9a-z]`. */
  readonly random: () => string;
  /** Never rejects. */
  readonly arm: (id: string, atMs: number) => Promise<void>;
}

export class Schedules {
  readonly #parts: SchedulesParts;

  constructor(parts: SchedulesParts) {
    this.#parts = parts;
  }

  /** The timetable has no problem (cron.ts). */
  async create(asked: Omit<ScheduleSpec, 'createdAtMs'>, enabled: boolean): Promise<ScheduleRecord | 'full'> {
    const { store, nowMs, random, arm } = this.#parts;
    const createdAtMs = Math.floor(nowMs());
    const id = newScheduleId(createdAtMs, random);
    const spec = { ...asked, createdAtMs };
    const nextAtMs = enabled ? nextFiring(spec, createdAtMs) : undefined;
    if ((await store.put(id, spec, nextAtMs)) === 'full') return 'full';
    await this.#confirmed();
    if (nextAtMs !== undefined) await arm(id, nextAtMs);
    return { ...spec, id, nextAtMs, last: undefined, missed: 0 };
  }

  read(id: string): Promise<ScheduleRecord | undefined> {
    return this.#parts.store.read(id);
  }

  list(after: string | undefined, limit: number): Promise<readonly ScheduleRecord[]> {
    return this.#parts.store.list(after, limit);
  }

  /** Undefined if there is no such schedule, as below. */
  async pause(id: string): Promise<ScheduleRecord | undefined> {
    await this.#parts.store.steer(id, undefined);
    await this.#confirmed();
    return await this.read(id);
  }

  async resume(id: string): Promise<ScheduleRecord | undefined> {
    const { store, nowMs, arm } = this.#parts;
    const schedule = await store.read(id);
    if (schedule === undefined) return undefined;
    const nextAtMs = nextFiring(schedule, nowMs());
    const steered = await store.steer(id, nextAtMs);
    await this.#confirmed();
    if (steered === 'steered') await arm(id, nextAtMs);
    return await this.read(id);
  }

  async remove(id: string): Promise<boolean> {
    const removed = await this.#parts.store.remove(id);
    await this.#confirmed();
    return removed;
  }

  async #confirmed(): Promise<void> {
    if (await this.#parts.confirm()) return;
    throw new BrokerError('broker_unavailable', 'the store did not confirm the change; it may have been made: look');
  }
}
