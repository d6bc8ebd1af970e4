/** Carries the events of one durable group to one message broker: at least once, each device's events in their order.
 *
 *  The group decides what is due; here nothing is kept. Several processes pump the same group and share its events. An event is acknowledged
 *  when the broker has confirmed it and not before, so a process that dies or a broker that is killed costs repeats, never events.
 *  Broker away, or it takes nothing: what is out is released, which wears out no attempts, and after a pause that grows to half a minute
 *  another connection is made. Store away: looked at again after a pause. Neither is anybody else's business: the process stays ready.
 *  Bounded: pulls at once, events of a pull, waits. Not done here: what a message says (message.ts), and how it travels (the sink). */

import { setTimeout as sleep } from 'node:timers/promises';
import { BrokerError } from '@lapi-broker/protocol';
import type { LifecycleLog, Part } from '@lapi-broker/runtime';
import type { Sink, SinkConnection, SinkMessage, SinkResult } from '@lapi-broker/sink';
import type { StartPoint } from '../event/cursor.ts';
import type { FilterTerms } from '../event/filter.ts';
import type { Delivery, GroupSpec, Groups, Verdict } from '../group/group.ts';
import { backoffMs, leftOut, planSettlement, toSinkMessage } from './message.ts';

export interface SinkPumpParts {
  /** Of the sink; its group is `sink:<name>`. */
  readonly sinkName: string;
  readonly filter: FilterTerms;
  /** For the first time that this sink is ever started. */
  readonly start: StartPoint;
  readonly groups: Pick<Groups, 'create' | 'change' | 'replay' | 'pull' | 'settle'>;
  readonly sink: Sink;
  readonly meter: SinkMeter;
  readonly log: Pick<LifecycleLog, 'info' | 'warn'>;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  readonly monotonicMs: () => number;
  readonly limits?: Partial<SinkLimits> | undefined;
}

export interface SinkMeter {
  /** One batch; `ms` until the broker had answered all of it. */
  published(results: readonly (SinkResult['status'] | 'omitted')[], ms: number): void;
  connected(connected: boolean): void;
  storeFailed(): void;
}

export interface SinkLimits {
  /** Batches under way at once. */
  readonly pulls: number;
  readonly batch: number;
  readonly waitMs: number;
  /** Longer than a publish may take, twice. */
  readonly ackDeadlineMs: number;
  /** Between two connections, and after a failure of the store. */
  readonly pauseMs: { readonly first: number; readonly most: number };
  /** Before an event that the broker refused is tried again. */
  readonly refusedMs: { readonly first: number; readonly most: number };
}

export const SINK_LIMITS: SinkLimits = {
  pulls: 4,
  batch: 100,
  waitMs: 5_000,
  ackDeadlineMs: 30_000,
  pauseMs: { first: 500, most: 30_000 },
  refusedMs: { first: 1_000, most: 300_000 },
};

/** Enough for every process of a large installation. */
const MAX_IN_FLIGHT = 10_000;
/** The most there is: some eight hours of refusals. */
const MAX_ATTEMPTS = 100;
/** A pull that answers nothing at once must not become a busy loop. */
const IDLE_MS = 20;
const REFUSED_REPORT_MS = 10_000;

export class SinkPump implements Part {
  readonly name: string;
  readonly #parts: SinkPumpParts;
  readonly #limits: SinkLimits;
  readonly #spec: GroupSpec;
  readonly #leaving = new AbortController();
  #connection: SinkConnection | undefined;
  #replayed = false;
  #running: Promise<void> | undefined;
  /** The reason for not working that was told last; undefined while it works. */
  #told: string | undefined = '';
  #refusedToldMs = Number.NEGATIVE_INFINITY;
  /** Connections in a row over which nothing was confirmed. */
  #failures = 0;

  constructor(parts: SinkPumpParts) {
    this.name = `sink ${parts.sinkName}`;
    this.#parts = parts;
    this.#limits = { ...SINK_LIMITS, ...parts.limits };
    this.#spec = {
      name: `sink:${parts.sinkName}`,
      filter: parts.filter,
      ackDeadlineMs: this.#limits.ackDeadlineMs,
      maxInFlight: MAX_IN_FLIGHT,
      maxAttempts: MAX_ATTEMPTS,
      ordered: true,
    };
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Takes nothing more, and waits for what the broker has been given. */
  async drain(): Promise<void> {
    this.#leaving.abort();
    await this.#running;
  }

  async stop(): Promise<void> {
    this.#leaving.abort();
    // What it has not confirmed by now goes back to the group.
    await this.#connection?.close();
    await this.#running;
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    const { sink, meter } = this.#parts;
    const { signal } = this.#leaving;
    while (!signal.aborted) {
      let reason: string;
      try {
        await this.#ensureGroup();
        const connection = await sink.connect();
        this.#connection = connection;
        meter.connected(true);
        reason = await this.#useUp(connection);
      } catch (error) {
        reason = error instanceof Error ? error.message : String(error);
      }
      meter.connected(false);
      if (signal.aborted) break;
      this.#tellAway(reason);
      await this.#pause(this.#failures, this.#limits.pauseMs);
      this.#failures += 1;
    }
  }

  /** Before every connection, because it costs little and somebody may have removed the group. */
  async #ensureGroup(): Promise<void> {
    const { groups, start } = this.#parts;
    const { name, filter, ackDeadlineMs, maxInFlight, maxAttempts } = this.#spec;
    const created = await groups.create(this.#spec, 'sink', start);
    if (created.status === 'conflict') await groups.change(name, { filter, ackDeadlineMs, maxInFlight, maxAttempts });
    if (created.status === 'full') {
      throw new Error(`there are as many subscriptions as LAPI_SUBSCRIPTIONS allows (${created.limit})`);
    }
    // What the broker refused for hours gets another chance when a process starts, perhaps with what was wrong put right.
    if (!this.#replayed) await groups.replay(name, undefined);
    this.#replayed = true;
  }

  /** Resolves with the reason why the connection is of no use any more, when nothing of it is under way. */
  async #useUp(connection: SinkConnection): Promise<string> {
    const ended = new AbortController();
    let reason = '';
    const end = (why: string): void => {
      if (!ended.signal.aborted) reason = why;
      ended.abort();
    };
    const onLeaving = (): void => end('');
    this.#leaving.signal.addEventListener('abort', onLeaving, { once: true });
    if (this.#leaving.signal.aborted) onLeaving();
    void connection.lost.then(end);
    const pulling = Array.from({ length: this.#limits.pulls }, () => this.#pump(connection, ended.signal, end));
    await Promise.all(pulling);
    this.#leaving.signal.removeEventListener('abort', onLeaving);
    await connection.close();
    return reason;
  }

  /** Never rejects. */
  async #pump(connection: SinkConnection, signal: AbortSignal, end: (why: string) => void): Promise<void> {
    const { groups, meter } = this.#parts;
    const { batch, waitMs, pauseMs } = this.#limits;
    let failures = 0;
    while (!signal.aborted) {
      try {
        const deliveries = await groups.pull(this.#spec.name, { max: batch, waitMs, signal });
        failures = 0;
        if (deliveries.length > 0) await this.#handOver(connection, deliveries, end);
        else await sleep(IDLE_MS, undefined, { signal }).catch(() => undefined);
      } catch (error) {
        if (error instanceof BrokerError && error.code === 'not_found') return end('its group was removed');
        meter.storeFailed();
        if (!(error instanceof BrokerError))
          this.#parts.log.warn({ sink: this.#parts.sinkName, err: error }, 'sink.failed');
        await this.#pause(failures, pauseMs, signal);
        failures += 1;
      }
    }
  }

  async #handOver(
    connection: SinkConnection,
    deliveries: readonly Delivery[],
    end: (why: string) => void,
  ): Promise<void> {
    const { monotonicMs, meter } = this.#parts;
    const beganMs = monotonicMs();
    const messages = deliveries.map(toSinkMessage);
    const { results, omitted } = await publish(connection, messages);
    meter.published(
      results.map(({ status }, i) => (status === 'confirmed' && omitted.has(i) ? 'omitted' : status)),
      monotonicMs() - beganMs,
    );
    const { ack, release, nack, ended } = planSettlement(deliveries, results, this.#leaving.signal.aborted);
    if (ack.length > 0) this.#tellWorking();
    if (ended !== undefined) end(ended);
    const refused = results.find(({ status }) => status === 'refused' || status === 'too_large');
    if (refused !== undefined && 'reason' in refused) this.#tellRefused(refused.reason);
    await Promise.all([
      this.#settle(ack, { type: 'ack' }),
      this.#settle(release, { type: 'release' }),
      ...[...nack].map(([attempt, ackIds]) => {
        const { first, most } = this.#limits.refusedMs;
        return this.#settle(ackIds, { type: 'nack', delayMs: backoffMs(attempt - 1, first, most, this.#parts.random) });
      }),
    ]);
  }

  /** One that fails is made good by the ack deadline of the group: handed out again. */
  async #settle(ackIds: readonly string[], verdict: Verdict): Promise<void> {
    if (ackIds.length === 0) return;
    try {
      await this.#parts.groups.settle(this.#spec.name, ackIds, verdict);
    } catch {
      this.#parts.meter.storeFailed();
    }
  }

  async #pause(
    failures: number,
    { first, most }: { readonly first: number; readonly most: number },
    signal: AbortSignal = this.#leaving.signal,
  ): Promise<void> {
    await sleep(backoffMs(failures, first, most, this.#parts.random), undefined, { signal }).catch(() => undefined);
  }

  #tellWorking(): void {
    this.#failures = 0;
    if (this.#told === undefined) return;
    this.#told = undefined;
    this.#parts.log.info({ sink: this.#parts.sinkName }, 'sink.working');
  }

  #tellAway(reason: string): void {
    if (this.#told === reason) return;
    this.#told = reason;
    this.#parts.log.warn({ sink: this.#parts.sinkName, reason }, 'sink.away');
  }

  #tellRefused(reason: string): void {
    const nowMs = this.#parts.monotonicMs();
    if (nowMs - this.#refusedToldMs < REFUSED_REPORT_MS) return;
    this.#refusedToldMs = nowMs;
    this.#parts.log.warn({ sink: this.#parts.sinkName, reason }, 'sink.refused');
  }
}

/** What is too large is sent once more as the note that it was left out; `omitted` holds the places of those. */
async function publish(
  connection: SinkConnection,
  messages: readonly SinkMessage[],
): Promise<{ readonly results: readonly SinkResult[]; readonly omitted: ReadonlySet<number> }> {
  const results = [...(await connection.publish(messages))];
  const omitted = new Set<number>();
  for (const [i, { status }] of results.entries()) if (status === 'too_large') omitted.add(i);
  if (omitted.size === 0) return { results, omitted };
  const notes = await connection.publish([...omitted].map((i) => leftOut(messages[i] as SinkMessage)));
  for (const [n, i] of [...omitted].entries()) results[i] = notes[n] as SinkResult;
  return { results, omitted };
}
