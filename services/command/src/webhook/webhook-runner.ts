/** Sees to it that somebody sends what there is to send. Turns of lanes come from the work queue, to whichever process has a place; because that may
 *  lose or double them, every process also looks each second for lanes that nobody attends to, and a lease admits one holder at a time.
 *  A process that is killed leaves lanes whose leases end within seconds, and events that the group hands out again. One that was paused finds its
 *  lanes lost at the next renewal, and takes nothing more for them.
 *  Leaving: requests on their way may arrive until the drain is over, then they are broken off and their events given back.
 *  Store away: turns fail, are counted, and come again. Not done here: what a turn does (lane-run.ts). */

import { type LaneRunParts, runLane, type TurnEnd } from './lane-run.ts';
import type { SigningWebhook } from './webhook.ts';
import type { LaneName, WebhookStore } from './webhook-store.ts';

export interface WebhookRunnerParts extends Omit<LaneRunParts, 'askTurn' | 'store'> {
  readonly store: Pick<WebhookStore, 'take' | 'renew' | 'release' | 'wake' | 'due' | 'report'>;
  /** Asks the work queue; may be lost. */
  readonly addTurn: (turn: string, delayMs: number) => Promise<void>;
  /** Unique at all times. */
  readonly newToken: () => string;
  readonly onFailure: (webhook: string, error: unknown) => void;
  readonly timing?: RunnerTiming;
}

export interface RunnerTiming {
  readonly sweepMs: number;
  /** Between two renewals; some must fit into a lease. */
  readonly renewMs: number;
}

export const LEASE_MS = 5_000;
const TIMING: RunnerTiming = { sweepMs: 1_000, renewMs: 1_000 };
const SWEPT_LANES = 500;
/** Until a turn that was asked for is overdue. */
const OVERDUE_MS = 1_000;
/** After a turn that failed. */
const FAILED_MS = 1_000;
const DRAIN_MS = 5_000;
const TURN = /^([0-9a-z]{20}):(\d{1,2}):\d{1,15}$/;

interface Held extends LaneName {
  readonly token: string;
  /** The lane was lost, or this process leaves. */
  readonly leave: AbortController;
}

export class WebhookRunner {
  readonly name = 'webhook runner';
  readonly #parts: WebhookRunnerParts;
  readonly #timing: RunnerTiming;
  #leaving: boolean = false;
  /** Bounded by the places of the work queue. */
  readonly #held = new Set<Held>();
  readonly #turns = new Set<Promise<void>>();
  readonly #timers: NodeJS.Timeout[] = [];
  #sweeping: Promise<void> | undefined;
  #renewing: Promise<void> | undefined;

  constructor(parts: WebhookRunnerParts) {
    this.#parts = parts;
    this.#timing = parts.timing ?? TIMING;
  }

  /** Lanes that this process sees to now. */
  get held(): number {
    return this.#held.size;
  }

  start(): void {
    if (this.#timers.length > 0) return;
    const { sweepMs, renewMs } = this.#timing;
    this.#timers.push(
      setInterval(() => {
        this.#sweeping ??= this.#sweep().finally(() => {
          this.#sweeping = undefined;
        });
      }, sweepMs),
      setInterval(() => {
        this.#renewing ??= this.#renew().finally(() => {
          this.#renewing = undefined;
        });
      }, renewMs),
    );
  }

  /** Waits for requests on their way, though not for long: other parts share the deadline. */
  async drain(deadlineMs: number): Promise<void> {
    this.#leave();
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, Math.min(deadlineMs, DRAIN_MS));
    });
    await Promise.race([Promise.all(this.#turns), over]);
    clearTimeout(timer);
  }

  async stop(): Promise<void> {
    this.#leave();
    for (const timer of this.#timers) clearInterval(timer);
    await Promise.all([this.#sweeping, this.#renewing]);
  }

  /** A webhook was made, switched, or changed: its turns here end, and the next one reads it anew. Other processes find out with the next renewal.
   *  Never rejects: a turn that is lost here the sweep finds. */
  async restart(id: string): Promise<void> {
    for (const held of this.#held) if (held.id === id) held.leave.abort();
    await this.#ask({ id, lane: 0 }, 0);
  }

  /** The handler of the work queue. Never rejects. */
  async take(turn: string, stop: AbortSignal): Promise<void> {
    const [, id, lane] = TURN.exec(turn) ?? [];
    if (id === undefined || this.#leaving) return;
    const taking = this.#take({ id, lane: Number(lane) }, stop).catch((error: unknown) =>
      this.#parts.onFailure(id, error),
    );
    this.#turns.add(taking);
    await taking;
    this.#turns.delete(taking);
  }

  #leave(): void {
    this.#leaving = true;
    for (const held of this.#held) held.leave.abort();
  }

  async #take(lane: LaneName, stop: AbortSignal): Promise<void> {
    const { store, newToken } = this.#parts;
    const token = newToken();
    const taken = await store.take(lane, token);
    if (taken.status === 'rest') await this.#ask(lane, taken.restMs);
    if (taken.status !== 'taken') return;
    const held: Held = { ...lane, token, leave: new AbortController() };
    this.#held.add(held);
    if (this.#leaving) held.leave.abort();
    const end = await this.#run(held, taken.webhook, stop).finally(() => this.#held.delete(held));
    const restMs = end.status === 'idle' ? undefined : end.status === 'rest' ? end.restMs : 0;
    if ((await store.release(lane, token, restMs)) && restMs !== undefined) await this.#ask(lane, restMs);
  }

  async #run(held: Held, webhook: SigningWebhook, stop: AbortSignal): Promise<TurnEnd> {
    const leave = held.leave.signal;
    // Not AbortSignal.any: it leaves something behind at signals that live as long as the process.
    const onStop = (): void => held.leave.abort();
    stop.addEventListener('abort', onStop);
    if (stop.aborted) onStop();
    const parts = { ...this.#parts, askTurn: (lane: LaneName) => this.#ask(lane, 0) };
    try {
      return await runLane(parts, webhook, held, { leave, stop });
    } catch (error) {
      // An aborted wait is no failure.
      if (!leave.aborted) this.#parts.onFailure(held.id, error);
      return { status: 'rest', restMs: FAILED_MS };
    } finally {
      stop.removeEventListener('abort', onStop);
    }
  }

  /** The time keeps turns apart, because the queue takes an id once. */
  async #ask({ id, lane }: LaneName, delayMs: number, atMs: number = this.#parts.nowMs() + delayMs): Promise<void> {
    try {
      await this.#parts.addTurn(`${id}:${lane}:${Math.floor(atMs)}`, delayMs);
    } catch (error) {
      this.#parts.onFailure(id, error);
    }
  }

  /** Never rejects. */
  async #sweep(): Promise<void> {
    const { store, nowMs, onFailure } = this.#parts;
    if (this.#leaving) return;
    try {
      const due = await store.due(nowMs() - OVERDUE_MS, SWEPT_LANES);
      // All processes ask for the same turn.
      await Promise.all(due.map(({ atMs, ...lane }) => this.#ask(lane, 0, atMs)));
    } catch (error) {
      onFailure('', error);
    }
  }

  /** Never rejects. */
  async #renew(): Promise<void> {
    const held = [...this.#held];
    if (held.length === 0) return;
    try {
      const lost = new Set(await this.#parts.store.renew(held));
      for (const each of held) if (lost.has(each)) each.leave.abort();
    } catch (error) {
      this.#parts.onFailure('', error);
    }
  }
}
