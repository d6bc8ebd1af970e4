/** Looks at lanes that nobody else looks at: what is due by time alone (expiry, notBefore, retries of offline devices, attempts that nobody
 *  answered), and wake-ups that were lost. Two ways to the same harmless script: a BullMQ timer to the moment, and a sweep over all shards
 *  every two seconds that needs nothing but the store. Both may run twice, late, early, or in every process at once.
 *  A timer measures by the clock of its maker; so one that fires early by Redis time is set again.
 *  Bounded: devices per shard and pass, tends at once, timers on their way. Store away: the next pass finds what is due.
 *  Not done here: sending (the owner is only woken). */

import type { LaneIntake, TendResult } from '@lapi-broker/lane';
import { type DeviceCode, isDeviceCode } from '@lapi-broker/protocol';
import type { WorkQueue } from '@lapi-broker/queue';
import type { StoreTime } from '../dispatch/dispatch.ts';
import type { LaneHints, LaneTimers } from './hints.ts';

export interface TenderParts {
  readonly intake: Pick<LaneIntake, 'tend' | 'due'>;
  readonly shards: number;
  readonly hints: LaneHints;
  readonly addTimer: WorkQueue['add'];
  readonly time: StoreTime;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  readonly limits: TenderLimits;
  readonly onTended: (by: 'sweep' | 'timer' | 'request', result: TendResult) => void;
  readonly onFailure: (error: unknown) => void;
}

export interface TenderLimits {
  readonly sweepMs: number;
  /** Devices per shard and pass. */
  readonly batch: number;
  readonly concurrency: number;
  /** Timers on their way to the queue; a further one is left to the sweep. */
  readonly pendingTimers: number;
}

/** The time of the store is known to some milliseconds only, and a look before the moment would find nothing. */
const MARGIN_MS = 10;

export class Tender implements LaneTimers {
  readonly name = 'lane tender';
  readonly #parts: TenderParts;
  #timer: NodeJS.Timeout | undefined;
  #pass: Promise<void> | undefined;
  #pendingTimers = 0;
  #stopped: boolean = false;

  constructor(parts: TenderParts) {
    this.#parts = parts;
  }

  start(): void {
    if (this.#timer === undefined) this.#schedule();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#pass;
  }

  /** Never rejects: what gets no timer is found by the sweep. */
  ask(code: DeviceCode, atMs: number): void {
    void this.#add(code, atMs, 0);
  }

  /** A timer has fired. */
  async onTimer(id: string): Promise<void> {
    const timer = decodeTimer(id);
    if (timer === undefined || this.#stopped) return;
    const { code, atMs, tries } = timer;
    if (this.#parts.time.nowMs() < atMs + MARGIN_MS / 2) await this.#add(code, atMs, tries + 1);
    else await this.#tend(code, 'timer');
  }

  /** One pass over all shards; a pass under way is joined. Never rejects. */
  sweep(): Promise<void> {
    this.#pass ??= this.#sweepShards().finally(() => {
      this.#pass = undefined;
    });
    return this.#pass;
  }

  /** At once, for somebody who knows that there is something to do. Never rejects: what this does not do is found by the sweep. */
  async tend(code: DeviceCode): Promise<void> {
    try {
      await this.#tend(code, 'request');
    } catch (error) {
      this.#parts.onFailure(error);
    }
  }

  #schedule(): void {
    if (this.#stopped) return;
    const { sweepMs } = this.#parts.limits;
    // Jitter, so that several processes do not meet over the same lanes.
    this.#timer = setTimeout(
      () => void this.sweep().then(() => this.#schedule()),
      sweepMs * (0.75 + this.#parts.random() / 2),
    );
  }

  async #sweepShards(): Promise<void> {
    const { intake, shards, limits } = this.#parts;
    for (let shard = 0; shard < shards && !this.#stopped; shard++) {
      try {
        const codes = await intake.due(shard, limits.batch);
        for (let i = 0; i < codes.length && !this.#stopped; i += limits.concurrency) {
          const batch = codes.slice(i, i + limits.concurrency);
          const looks = await Promise.allSettled(batch.map((code) => this.#tend(code, 'sweep')));
          // One lane that cannot be tended costs the others nothing; if none can, the store is away.
          for (const look of looks) if (look.status === 'rejected') this.#parts.onFailure(look.reason);
          if (looks.every(({ status }) => status === 'rejected')) break;
        }
      } catch (error) {
        this.#parts.onFailure(error);
      }
    }
  }

  async #tend(code: DeviceCode, by: 'sweep' | 'timer' | 'request'): Promise<void> {
    const result = await this.#parts.intake.tend(code);
    this.#parts.onTended(by, result);
    this.#parts.hints.send(code, result, result.startable);
  }

  async #add(code: DeviceCode, atMs: number, tries: number): Promise<void> {
    const { addTimer, time, limits } = this.#parts;
    if (this.#pendingTimers >= limits.pendingTimers) return;
    this.#pendingTimers += 1;
    try {
      await addTimer(encodeTimer({ code, atMs, tries }), {
        delayMs: Math.max(0, Math.ceil(atMs - time.nowMs()) + MARGIN_MS),
      });
    } catch {
      // The sweep finds the lane.
    } finally {
      this.#pendingTimers -= 1;
    }
  }
}

interface LaneTimer {
  readonly code: DeviceCode;
  readonly atMs: number;
  /** Tells a timer that was set again from the one that is being handled. */
  readonly tries: number;
}

export function encodeTimer({ code, atMs, tries }: LaneTimer): string {
  return `${Math.ceil(atMs)}.${tries}.${code}`;
}

/** Undefined for what no version of ours wrote. */
export function decodeTimer(id: string): LaneTimer | undefined {
  const [, at, tries, code = ''] = /^(\d{1,16})\.(\d{1,6})\.(.+)$/.exec(id) ?? [];
  return isDeviceCode(code) ? { code, atMs: Number(at), tries: Number(tries) } : undefined;
}
