/** Rounds of one fault on one broker: in each, devices that number their events, two durable subscriptions with consumers on both command
 *  services, a live stream, the fault at a random event, and the judgement when all has come to rest. Ends what it started, also when it fails
 *  or is stopped. */

import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import { TimerWheel } from '@lapi-broker/fleet';
import { Chance } from '../random.ts';
import { Rig } from '../rig.ts';
import { checkEvents, type EventViolation } from './checker.ts';
import { type Consumer, PullConsumer, SocketConsumer } from './consumer.ts';
import type { EventFault, EventStage } from './fault.ts';
import { type EventHistory, EventRecorder, placeOf, type ReaderKind } from './history.ts';
import { LiveReader } from './live-reader.ts';
import { Sender } from './sender.ts';

const EDGES = 2;
const SERVICES = 2;
const SHARDS = '4';
const ACK_DEADLINE_SECONDS = 3;
const MAX_ATTEMPTS = 100;
/** Of an event to be forgotten by the consumer that got it. */
const FORGETS = 0.002;
const ONLINE_MS = 30_000;
/** A flow that stands still for so long will not go on. */
const STILL_MS = 45_000;
const REST_LOOK_MS = 200;

export interface EventRunOptions {
  readonly fault: EventFault;
  readonly rounds: number;
  /** Of a round, over all its devices. */
  readonly events: number;
  readonly devices: number;
  readonly seed: number;
  /** Do devices send again what was not answered with success? */
  readonly repeats: boolean;
  readonly onRound?: (result: EventRound) => void;
  readonly signal?: AbortSignal;
}

export interface EventRound {
  readonly round: number;
  readonly history: EventHistory;
  readonly violations: readonly EventViolation[];
  /** From the first event to the rest. */
  readonly tookMs: number;
}

/** Histories of rounds go to `onRound` only. Answers the number of violations. */
export async function runEventFault(options: EventRunOptions): Promise<number> {
  const { fault, rounds, signal } = options;
  const rig = await Rig.start({
    store: fault.store ?? 'standalone',
    edges: EDGES,
    commands: SERVICES,
    env: { LAPI_SHARDS: SHARDS, ...fault.env },
    slowable: fault.slowable ?? false,
  });
  let violations = 0;
  let done = false;
  try {
    for (let round = 1; round <= rounds; round++) {
      signal?.throwIfAborted();
      const result = await runRound(rig, round, options);
      violations += result.violations.length;
      options.onRound?.(result);
    }
    await rig.stop();
    done = true;
    return violations;
  } finally {
    if (!done) await rig.kill();
  }
}

async function runRound(rig: Rig, round: number, options: EventRunOptions): Promise<EventRound> {
  const { fault, events, devices, repeats } = options;
  const chance = new Chance(options.seed * 1_000 + round);
  const failed = new AbortController();
  const signal = AbortSignal.any([failed.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  const names = { ordered: `ordered-${round}`, unordered: `unordered-${round}`, away: `away-${round}` };
  const readers = new Map<string, ReaderKind>([
    [names.ordered, 'ordered'],
    [names.unordered, 'unordered'],
    ...(fault.leaves === true ? [[names.away, 'ordered'] as const] : []),
    ['live', 'live'],
  ]);
  const recorder = new EventRecorder(readers, fault.rewinds ?? false);
  const subscriptions = [...readers].filter(([, kind]) => kind !== 'live');
  for (const [name, kind] of subscriptions) {
    const body = {
      name,
      ordered: kind === 'ordered',
      ackDeadlineSeconds: ACK_DEADLINE_SECONDS,
      maxAttempts: MAX_ATTEMPTS,
    };
    const answer = await rig.broker.api('/v1/subscriptions', { method: 'POST', body, service: 0 });
    if (answer.status !== 201) throw new Error(`POST subscription: ${answer.status} ${answer.text}`);
  }

  const timers = new TimerWheel();
  const live = new LiveReader({ reader: 'live', urls: rig.commandUrls, apiKey: rig.broker.apiKey, recorder });
  const consumersOf = (subscription: string): Consumer[] =>
    [PullConsumer, PullConsumer, SocketConsumer].map(
      (Kind, i) =>
        new Kind({
          subscription,
          by: `${Kind === SocketConsumer ? 'socket' : 'pull'} ${i + 1}`,
          urls: rig.commandUrls,
          firstUrl: i % SERVICES,
          apiKey: rig.broker.apiKey,
          forgets: FORGETS,
          recorder,
          chance,
        }),
    );
  let staying = [names.ordered, names.unordered].flatMap(consumersOf);
  let leaving = fault.leaves === true ? consumersOf(names.away) : [];
  const senders: Sender[] = [];
  let sending: Sender | undefined;
  let heard = (): void => undefined;
  try {
    const shares = Array.from({ length: devices }, (_, i) => Math.floor((events + i) / devices));
    const codes = shares.map((_, i) => `210235E${String(round).padStart(5, '0')}X${String(i).padStart(4, '0')}`);
    const secrets = await rig.provision(codes);
    const dataBytes = fault.dataBytes?.(events) ?? 0;
    for (const [i, code] of codes.entries()) {
      senders.push(
        new Sender({
          code,
          secret: secrets.get(code) ?? '',
          urls: rig.edgeUrls,
          firstUrl: i % EDGES,
          events: shares[i] ?? 0,
          dataBytes,
          repeats,
          onSent: (sender) => {
            sending = sender;
            heard();
          },
          recorder,
          timers,
        }),
      );
    }
    live.start();
    await waitFor(() => live.begun, { deadlineMs: ONLINE_MS, what: 'the live stream' });
    for (const consumer of [...staying, ...leaving]) consumer.start();
    for (const sender of senders) sender.start();
    await waitFor(() => senders.every(({ online }) => online), { deadlineMs: ONLINE_MS, what: 'all devices' });

    const beganMs = performance.now();
    for (const sender of senders) sender.begin();
    const sent = (): number => senders.reduce((sum, sender) => sum + sender.sent, 0);
    let allowed = shares;
    const mayStillSend = (): boolean => senders.some((each, i) => each.sent < (allowed[i] ?? 0));
    const pause = async (ms: number): Promise<void> => {
      await sleep(ms, undefined, { signal }).catch(() => undefined);
    };
    const stage: EventStage = {
      rig,
      get sending() {
        if (sending === undefined) throw new TypeError('nothing was sent yet');
        return sending;
      },
      chance,
      between: (from, to) => chance.between(Math.floor(events * from), Math.floor(events * to)),
      async untilSent(wanted) {
        // Right behind the event, while it is on its way.
        while (!signal.aborted && sent() < wanted && mayStillSend()) {
          const { promise, resolve } = Promise.withResolvers<void>();
          heard = resolve;
          signal.addEventListener('abort', heard, { once: true });
          await promise;
          signal.removeEventListener('abort', heard);
        }
      },
      allow(share) {
        allowed = shares.map((each) => Math.floor(each * share));
        for (const [i, sender] of senders.entries()) sender.allow(allowed[i] ?? 0);
      },
      async leave() {
        await Promise.all(leaving.map((consumer) => consumer.stop()));
        leaving = [];
      },
      comeBack() {
        leaving = consumersOf(names.away);
        for (const consumer of leaving) consumer.start();
      },
      async disturb(what, work) {
        recorder.log({ kind: 'disturb.begin', what });
        await work();
        recorder.log({ kind: 'disturb.end', what });
      },
      pause,
    };
    await fault.run(stage);
    await untilStill(recorder, signal, () => senders.every((sender) => sender.done));
    const rest = await untilRest(
      rig,
      recorder,
      subscriptions.map(([name]) => name),
      signal,
    );
    const stored = (): number => senders.reduce((sum, sender) => sum + sender.stored, 0);
    await untilStill(recorder, signal, () => live.seen >= stored() || isLevel(recorder));
    for (const fact of rest) recorder.log(fact);
    const tookMs = performance.now() - beganMs;
    if (options.signal?.aborted === true) throw new Error(`broken off: ${tellLast(recorder)}`);
    // Readers first: what devices leave behind is no part of the round.
    await Promise.all([...staying, ...leaving].map((consumer) => consumer.stop()));
    staying = [];
    leaving = [];
    live.stop();
    await Promise.all(senders.map((sender) => sender.stop()));
    for (const [name] of subscriptions) await rig.broker.api(`/v1/subscriptions/${name}`, { method: 'DELETE' });
    return { round, history: recorder, violations: checkEvents(recorder), tookMs };
  } finally {
    failed.abort();
    live.stop();
    await Promise.all([...staying, ...leaving].map((consumer) => consumer.stop()));
    await Promise.all(senders.map((sender) => sender.stop()));
    timers.stop();
  }
}

/** What the last entries were about, for a round that does not end. */
function tellLast({ entries }: EventRecorder): string {
  const kinds = new Map<string, number>();
  for (const entry of entries.slice(-500)) kinds.set(entry.kind, (kinds.get(entry.kind) ?? 0) + 1);
  const counts = [...kinds].map(([kind, count]) => `${kind} ${count}`).join(', ');
  return `of the last 500 entries ${counts}; the last ones ${JSON.stringify(entries.slice(-5))}`;
}

/** Until it is so, or nothing was written down for long; the checker says what is missing then. */
async function untilStill(
  recorder: EventRecorder,
  signal: AbortSignal,
  isDone: () => boolean | Promise<boolean>,
): Promise<void> {
  let entries = -1;
  let movedMs = performance.now();
  while (!signal.aborted && !(await isDone())) {
    if (recorder.entries.length !== entries) {
      entries = recorder.entries.length;
      movedMs = performance.now();
    }
    if (performance.now() - movedMs > STILL_MS) return;
    await sleep(REST_LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
}

/** Has the live stream come as far as the others, in every shard? */
function isLevel({ entries, readers }: EventRecorder): boolean {
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

type Rest = Extract<Parameters<EventRecorder['log']>[0], { readonly kind: 'rest' }>;

async function untilRest(
  rig: Rig,
  recorder: EventRecorder,
  names: readonly string[],
  signal: AbortSignal,
): Promise<readonly Rest[]> {
  let rest: Rest[] = [];
  await untilStill(recorder, signal, async () => {
    const answers = await Promise.all(
      names.map((name) =>
        rig.progress(name).then((progress) => ({ kind: 'rest', reader: name, ...progress }) as const),
      ),
    ).catch(() => undefined);
    rest = answers ?? rest;
    return answers?.every(({ lag, waiting, inFlight }) => lag + waiting + inFlight === 0) ?? false;
  });
  return rest;
}
