/** Sees to it that each moment of each schedule is carried out once, by some process, about in time.
 *
 *  Two ways lead here: a timer per next moment in the work queue, which is punctual and may be lost or doubled; and every two seconds a look in
 *  the store for moments that have passed, which finds everything. Both do the same: carry out under a key that names the moment, then move
 *  the schedule on by a compare-and-set. So two processes, or one that dies between the two steps, make one command or job.
 *  All times are those of the store; the clocks of processes decide about punctuality only.
 *  Store away, or it did not confirm: tried again at each look until the moment is older than the grace time, then it is counted as missed. */

import { setTimeout as sleep } from 'node:timers/promises';
import { planFiring } from './firing-plan.ts';
import type { Firing, ScheduleRecord } from './schedule.ts';
import type { ScheduleStore } from './schedule-store.ts';

export interface ScheduleRunnerParts {
  readonly store: Pick<ScheduleStore, 'read' | 'advance' | 'due'>;
  readonly time: { nowMs(): number };
  readonly carryOut: (schedule: ScheduleRecord, atMs: number) => Promise<Firing | 'again'>;
  /** Asks the work queue. */
  readonly addTimer: (timer: string, delayMs: number) => Promise<void>;
  /** After the schedule was moved on. Must not throw. */
  readonly onFiring: (schedule: ScheduleRecord, firing: Firing, missed: number) => void;
  readonly onFailure: (schedule: string, error: unknown) => void;
  /** Between two looks. Default 2,000. */
  readonly sweepMs?: number | undefined;
}

const SWEEP_MS = 2_000;
/** A moment that is older was not seen to by its timer. */
const OVERDUE_MS = 1_000;
const SWEPT_SCHEDULES = 200;
const SWEPT_AT_ONCE = 8;
/** A timer that comes earlier asks for another one. */
const EARLY_MS = 2_000;
/** Of a timer; a moment further away takes several. Those of schedules that were removed or paused are gone as soon. */
const MAX_DELAY_MS = 3_600_000;
const TIMER = /^([0-9a-z]{20})@\d{1,15}(?:@\d{1,15})?$/;

export class ScheduleRunner {
  readonly name = 'schedule runner';
  readonly #parts: ScheduleRunnerParts;
  readonly #stopping = new AbortController();
  /** Being attended to here; bounded by timers and sweeps at once. */
  readonly #busy = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #sweeping: Promise<void> = Promise.resolve();

  constructor(parts: ScheduleRunnerParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#timer = setTimeout(() => {
      this.#sweeping = this.#sweep().finally(() => {
        if (!this.#stopping.signal.aborted) this.start();
      });
    }, this.#parts.sweepMs ?? SWEEP_MS);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    clearTimeout(this.#timer);
    await this.#sweeping;
  }

  /** Asks for a timer. Never rejects: without one the sweep finds the moment. */
  async arm(id: string, atMs: number): Promise<void> {
    await this.#arm(id, `${id}@${atMs}`, atMs);
  }

  /** The handler of the work queue. Rejects when the store is away. */
  async onTimer(timer: string, signal: AbortSignal): Promise<void> {
    const id = TIMER.exec(timer)?.[1];
    if (id === undefined) return;
    const leftMs = await this.#attend(id);
    if (leftMs === undefined) return;
    if (leftMs > EARLY_MS) {
      const nowMs = Math.floor(this.#parts.time.nowMs());
      // An id of its own, because that of this timer is taken until it has ended.
      await this.#arm(id, `${id}@${Math.floor(nowMs + leftMs)}@${nowMs}`, nowMs + leftMs);
      return;
    }
    await sleep(Math.ceil(leftMs), undefined, { signal }).catch(() => undefined);
    if (!signal.aborted) await this.#attend(id);
  }

  async #arm(id: string, timer: string, atMs: number): Promise<void> {
    try {
      await this.#parts.addTimer(timer, Math.min(atMs - this.#parts.time.nowMs(), MAX_DELAY_MS));
    } catch (error) {
      this.#parts.onFailure(id, error);
    }
  }

  /** Does what is due. Answers how long it is until the next moment, where nothing was due. */
  async #attend(id: string): Promise<number | undefined> {
    if (this.#busy.has(id)) return undefined;
    this.#busy.add(id);
    try {
      const { store, time } = this.#parts;
      const schedule = await store.read(id);
      if (schedule?.nextAtMs === undefined) return undefined;
      const nowMs = time.nowMs();
      if (schedule.nextAtMs > nowMs) return schedule.nextAtMs - nowMs;
      await this.#fire({ ...schedule, nextAtMs: schedule.nextAtMs }, nowMs);
      return undefined;
    } finally {
      this.#busy.delete(id);
    }
  }

  async #fire(schedule: ScheduleRecord & { readonly nextAtMs: number }, nowMs: number): Promise<void> {
    const { store, onFiring } = this.#parts;
    const { id, nextAtMs: fromMs } = schedule;
    const { fireAtMs, latestMs = fromMs, nextAtMs, missed } = planFiring(schedule, nowMs);
    const firing: Firing | 'again' =
      fireAtMs === undefined ? { status: 'missed', atMs: latestMs } : await this.#carryOut(schedule, fireAtMs);
    if (firing === 'again') return;
    if (!(await store.advance(id, { fromMs, nextAtMs, last: firing, missed }))) return;
    onFiring(schedule, firing, missed);
    await this.arm(id, nextAtMs);
  }

  /** What fails in a way that nobody knows is not tried for ever. */
  async #carryOut(schedule: ScheduleRecord, atMs: number): Promise<Firing | 'again'> {
    try {
      return await this.#parts.carryOut(schedule, atMs);
    } catch (error) {
      this.#parts.onFailure(schedule.id, error);
      return { status: 'failed', atMs, error: 'internal', detail: 'the broker failed in a way it does not know' };
    }
  }

  /** Never rejects. */
  async #sweep(): Promise<void> {
    const { store, time, onFailure } = this.#parts;
    let due: readonly string[] = [];
    try {
      due = await store.due(time.nowMs() - OVERDUE_MS, SWEPT_SCHEDULES);
    } catch (error) {
      onFailure('', error);
    }
    for (let i = 0; i < due.length && !this.#stopping.signal.aborted; i += SWEPT_AT_ONCE) {
      const batch = due.slice(i, i + SWEPT_AT_ONCE);
      await Promise.all(batch.map((id) => this.#attend(id).catch((error: unknown) => onFailure(id, error))));
    }
  }
}
