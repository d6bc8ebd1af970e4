/** The readers of a run: two durable subscriptions with consumers on both command services, a third one that can be left alone, and a live stream
 *  that resumes with its cursor. They are there before the first event and are asked at the end how far they are. */

import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import type { Chance } from '../random.ts';
import type { Rig } from '../rig.ts';
import { type Consumer, PullConsumer, SocketConsumer } from './consumer.ts';
import { type EventRecorder, placeOf, type ReaderKind } from './history.ts';
import { LiveReader } from './live-reader.ts';

const ACK_DEADLINE_SECONDS = 3;
const MAX_ATTEMPTS = 100;
/** Of an event to be forgotten by the consumer that got it. */
const FORGETS = 0.002;
const BEGIN_MS = 30_000;
/** A flow that stands still for so long will not go on. */
const STILL_MS = 45_000;
/** One that moves without end, such as refusals of the same event, has this long. */
const MOST_MS = 240_000;
const LOOK_MS = 200;

export const ORDERED = 'ordered';
const UNORDERED = 'unordered';
const AWAY = 'away';
const LIVE = 'live';

export function readersOf(leaves: boolean): ReadonlyMap<string, ReaderKind> {
  return new Map<string, ReaderKind>([
    [ORDERED, 'ordered'],
    [UNORDERED, 'unordered'],
    ...(leaves ? [[AWAY, 'ordered'] as const] : []),
    [LIVE, 'live'],
  ]);
}

type Rest = Extract<Parameters<EventRecorder['log']>[0], { readonly kind: 'rest' }>;

export class Reading {
  readonly #rig: Rig;
  readonly #recorder: EventRecorder;
  readonly #chance: Chance;
  readonly #signal: AbortSignal;
  readonly #live: LiveReader;
  #staying: Consumer[] = [];
  #leaving: Consumer[] = [];

  constructor(rig: Rig, recorder: EventRecorder, chance: Chance, signal: AbortSignal) {
    this.#rig = rig;
    this.#recorder = recorder;
    this.#chance = chance;
    this.#signal = signal;
    this.#live = new LiveReader({ reader: LIVE, urls: rig.commandUrls, apiKey: rig.broker.apiKey, recorder });
  }

  get #subscriptions(): readonly string[] {
    return [...this.#recorder.readers].flatMap(([name, kind]) => (kind === 'live' ? [] : [name]));
  }

  async start(): Promise<void> {
    for (const name of this.#subscriptions) {
      const ordered = this.#recorder.readers.get(name) === 'ordered';
      const body = { name, ordered, ackDeadlineSeconds: ACK_DEADLINE_SECONDS, maxAttempts: MAX_ATTEMPTS };
      const answer = await this.#rig.broker.api('/v1/subscriptions', { method: 'POST', body });
      if (answer.status !== 201) throw new Error(`POST subscription: ${answer.status} ${answer.text}`);
    }
    this.#live.start();
    await waitFor(() => this.#live.begun, { deadlineMs: BEGIN_MS, what: 'the live stream' });
    this.#staying = [ORDERED, UNORDERED].flatMap((name) => this.#consumersOf(name));
    this.comeBack();
  }

  async leave(): Promise<void> {
    await Promise.all(this.#leaving.map((consumer) => consumer.stop()));
    this.#leaving = [];
  }

  comeBack(): void {
    if (this.#recorder.readers.has(AWAY) && this.#leaving.length === 0) this.#leaving = this.#consumersOf(AWAY);
  }

  holdLive(hold: boolean): void {
    this.#live.hold(hold);
  }

  /** Until the subscriptions have nothing left to do and the live stream is level with them, or nothing moves for long; logs how far they are.
   *  `stored`: how many numbers devices were told to be stored. */
  async untilRest(isSent: () => boolean, stored: () => number): Promise<void> {
    await this.#untilStill(isSent);
    let rest: readonly Rest[] = [];
    await this.#untilStill(async () => {
      rest = (await this.progress()) ?? rest;
      return rest.length > 0 && rest.every(({ lag, waiting, inFlight }) => lag + waiting + inFlight === 0);
    });
    await this.#untilStill(() => this.#live.seen >= stored() || this.#isLevel());
    for (const fact of rest) this.#recorder.log(fact);
  }

  /** Undefined while no service tells. */
  async progress(): Promise<readonly Rest[] | undefined> {
    return await Promise.all(
      this.#subscriptions.map((name) =>
        this.#rig.progress(name).then((progress) => ({ kind: 'rest', reader: name, ...progress }) as const),
      ),
    ).catch(() => undefined);
  }

  /** Idempotent. */
  async stop(): Promise<void> {
    this.#live.stop();
    const consumers = [...this.#staying, ...this.#leaving];
    this.#staying = [];
    this.#leaving = [];
    await Promise.all(consumers.map((consumer) => consumer.stop()));
  }

  #consumersOf(subscription: string): Consumer[] {
    const services = this.#rig.commands.length;
    const consumers = [PullConsumer, PullConsumer, SocketConsumer].map(
      (Kind, i) =>
        new Kind({
          subscription,
          by: `${Kind === SocketConsumer ? 'socket' : 'pull'} ${i + 1}`,
          urls: this.#rig.commandUrls,
          firstUrl: i % services,
          apiKey: this.#rig.broker.apiKey,
          forgets: FORGETS,
          recorder: this.#recorder,
          chance: this.#chance,
        }),
    );
    for (const consumer of consumers) consumer.start();
    return consumers;
  }

  /** Until it is so, or nothing was written down for long; the checker says what is missing then. */
  async #untilStill(isDone: () => boolean | Promise<boolean>): Promise<void> {
    const { entries } = this.#recorder;
    let seen = -1;
    const beganMs = performance.now();
    let movedMs = beganMs;
    while (!this.#signal.aborted && !(await isDone())) {
      if (entries.length !== seen) {
        seen = entries.length;
        movedMs = performance.now();
      }
      if (performance.now() - movedMs > STILL_MS || performance.now() - beganMs > MOST_MS) return;
      await sleep(LOOK_MS, undefined, { signal: this.#signal }).catch(() => undefined);
    }
  }

  /** Has the live stream come as far as the others, in every shard? */
  #isLevel(): boolean {
    const { entries, readers } = this.#recorder;
    const ahead = new Map<number, number>();
    const live = new Map<number, number>();
    for (const entry of entries) {
      if (entry.kind !== 'receive' && entry.kind !== 'gap') continue;
      const { shard, number } = placeOf(entry.kind === 'receive' ? entry.id : entry.to);
      const places = readers.get(entry.reader) === 'live' ? live : ahead;
      places.set(shard, Math.max(places.get(shard) ?? 0, entry.kind === 'receive' ? number : number - 1));
    }
    return [...ahead].every(([shard, number]) => (live.get(shard) ?? 0) >= number);
  }
}
