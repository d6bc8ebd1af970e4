/** One run: a broker, devices that take commands and devices that send numbered events, a platform, readers, one fault, and the judgement of all
 *  that was seen. Ends what it started, also when it fails or is stopped. */

import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import { TimerWheel } from '@lapi-broker/fleet';
import type { EventHistory } from './event/history.ts';
import { EventRecorder } from './event/history.ts';
import { ORDERED, Reading, readersOf } from './event/reading.ts';
import { Sender } from './event/sender.ts';
import type { Fault, Stage } from './fault/fault.ts';
import { type History, Recorder } from './history/history.ts';
import { judge, standing, type Violation } from './judge.ts';
import { Chance } from './random.ts';
import { Rig, type StoreKind } from './rig.ts';
import { type Mix, planRun } from './traffic/plan.ts';
import { Platform } from './traffic/platform.ts';
import { Witness } from './traffic/witness.ts';
import { Canaries, lookEverywhere, storeDirs } from './whole/canary.ts';
import { checkEnough } from './whole/enough.ts';
import { checkFootprint, type Footprint, takeFootprint } from './whole/footprint.ts';
import { checkServed } from './whole/others.ts';
import { type Connection, checkPresenceEvents, type PresenceViolation, PresenceWatch } from './whole/presence.ts';

const EDGES = 2;
const SERVICES = 2;
const SHARDS = 4;
export const USUAL: Load = { commandsPerSecond: 25, devices: 24, senders: 8, eventsPerSecond: 12 };
/** Right after a burst (plan.ts), while its first commands are out. */
const UNHURRIED: Pace = { faultAtMs: 3_060, aftermathMs: 5_000 };
const ONLINE_MS = 30_000;
/** All that was accepted has ended by then: its deadline, its timeout, and the grace of the promise. */
const LAST_END_MS = 60_000 + 20_000 + 15_000;
/** The latest answer of a device, and its way. */
const LATE_MS = 4_000;
/** After a fault, all views of who is connected agree again (I1.3). */
const AGREED_MS = 30_000;
/** Connections that are kept for a while are gone by then. */
const SETTLED_MS = 20_000;
const LOOK_MS = 500;
const NEXT_EVENT_MS = 3_000;

export interface Pace {
  /** From the begin of the load to the begin of the fault. */
  readonly faultAtMs: number;
  /** The load goes on for so long when the fault is over. */
  readonly aftermathMs: number;
}

export interface Load {
  readonly commandsPerSecond: number;
  readonly devices: number;
  readonly senders: number;
  /** Of each sender. */
  readonly eventsPerSecond: number;
}

export interface RunOptions {
  readonly fault: Fault;
  readonly store: StoreKind;
  readonly seed: number;
  readonly load?: Partial<Load>;
  readonly mix?: Partial<Mix>;
  readonly pace?: Pace;
  readonly signal?: AbortSignal;
}

export interface RunResult {
  readonly commands: History;
  readonly events: EventHistory;
  /** From the end of the fault until all views of who is connected agreed. */
  readonly agreedMs: number;
  readonly before: Footprint;
  readonly after: Footprint;
  /** What each process logged, the killed ones included. */
  readonly logs: readonly { readonly name: string; readonly lines: readonly string[] }[];
  readonly violations: readonly Violation[];
  /** From the begin of the load to the last end that was read. */
  readonly tookMs: number;
}

export async function runFault(options: RunOptions): Promise<RunResult> {
  const { fault } = options;
  const rig = await Rig.start({
    store: options.store,
    edges: EDGES,
    commands: SERVICES,
    ...fault.needs,
    env: { LAPI_SHARDS: String(SHARDS), ...fault.needs?.env },
  });
  let done = false;
  try {
    const result = await new Run(rig, options).run();
    await rig.stop();
    done = true;
    return result;
  } finally {
    if (!done) await rig.kill();
  }
}

/** The store did by itself what only the fault should do, and nothing that holds all the same was broken: the run shows nothing about the fault. */
export class MachineTooBusy extends Error {}

class Run {
  readonly #rig: Rig;
  readonly #options: RunOptions;
  readonly #load: Load;
  readonly #pace: Pace;
  readonly #failed = new AbortController();
  readonly #signal: AbortSignal;
  readonly #timers = new TimerWheel();
  readonly #canaries = new Canaries();
  readonly #commands: Recorder;
  readonly #events: EventRecorder;
  readonly #plan: ReturnType<typeof planRun>;
  readonly #loadMs: number;
  readonly #witnesses: Witness[] = [];
  readonly #senders: Sender[] = [];
  #onSent: (sender: Sender) => void = () => undefined;

  constructor(rig: Rig, options: RunOptions) {
    const { fault, seed, mix, load, pace = UNHURRIED, signal } = options;
    this.#rig = rig;
    this.#options = options;
    this.#load = { ...USUAL, ...load };
    this.#pace = pace;
    this.#signal = AbortSignal.any([this.#failed.signal, ...(signal === undefined ? [] : [signal])]);
    // Everything that waits listens to it.
    setMaxListeners(0, this.#signal);
    this.#loadMs = pace.faultAtMs + fault.lengthMs + pace.aftermathMs;
    this.#plan = planRun({
      seed,
      commands: Math.round((this.#loadMs / 1_000) * this.#load.commandsPerSecond),
      devices: this.#load.devices,
      edges: EDGES,
      loadMs: this.#loadMs,
      mutes: fault.mutes ?? 0,
      mix: { ...fault.mix, ...mix },
    });
    this.#commands = new Recorder(this.#plan.commands);
    this.#events = new EventRecorder(
      readersOf(fault.leaves ?? false),
      (fault.rewinds ?? false) && options.store !== 'standalone',
    );
  }

  async run(): Promise<RunResult> {
    const reading = new Reading(this.#rig, this.#events, new Chance(this.#options.seed ^ 0xeaede7), this.#signal);
    try {
      return await this.#run(reading);
    } finally {
      this.#failed.abort();
      for (const witness of this.#witnesses) witness.stop();
      await Promise.all(this.#senders.map((sender) => sender.stop()));
      await reading.stop();
      this.#timers.stop();
    }
  }

  async #run(reading: Reading): Promise<RunResult> {
    const rig = this.#rig;
    const { fault, seed } = this.#options;
    await this.#provision();
    await reading.start();
    for (const sender of this.#senders) sender.start();
    const comers = this.#plan.devices.map(({ comesAtMs, edge }, i) => ({
      comesAtMs,
      start: () => this.#witnesses[i]?.start(edge),
    }));
    for (const { comesAtMs, start } of comers) if (comesAtMs === 0) start();
    const isHere = (i: number): boolean =>
      this.#plan.devices[i]?.comesAtMs !== 0 || this.#witnesses[i]?.online === true;
    await waitFor(() => this.#senders.every(({ online }) => online) && this.#witnesses.every((_, i) => isHere(i)), {
      deadlineMs: ONLINE_MS,
      what: 'all devices',
    });
    const look = (text: string): void => this.#canaries.look('an answer of the API', text);
    const watch = new PresenceWatch(rig, () => this.#connections(), this.#signal, look);
    const before = await takeFootprint(rig, this.#open);
    const dirs = await storeDirs(rig);
    const takeOvers = await rig.takeOvers();

    const platform = new Platform({
      urls: rig.commandUrls,
      apiKey: rig.broker.apiKey,
      recorder: this.#commands,
      signal: this.#signal,
      onAnswer: look,
    });
    const beganMs = performance.now();
    for (const { comesAtMs, start } of comers) {
      if (comesAtMs !== undefined && comesAtMs > 0) this.#timers.after(comesAtMs, start);
    }
    for (const sender of this.#senders) sender.begin();
    const stage = this.#stage(reading, new Chance(seed ^ 0xfa17));
    let agreed: { readonly tookMs: number; readonly violations: readonly PresenceViolation[] } = {
      tookMs: 0,
      violations: [],
    };
    let endedByMs = Number.POSITIVE_INFINITY;
    const breakIt = async (): Promise<void> => {
      await stage.pause(this.#pace.faultAtMs);
      if (this.#signal.aborted) return;
      await fault.run(stage);
      agreed = await watch.untilAgreed(AGREED_MS);
    };
    const load = async (): Promise<void> => {
      await Promise.all([platform.submitAll(this.#plan.commands), breakIt()]);
      endedByMs = performance.now() + LAST_END_MS;
    };
    const isOver = (): boolean =>
      endedByMs < Number.POSITIVE_INFINITY && (platform.open === 0 || performance.now() > endedByMs);
    await Promise.all([load(), platform.readUntil(isOver)]).catch((error: unknown) => {
      this.#failed.abort();
      throw error;
    });
    const tookMs = Math.round(performance.now() - beganMs);
    if (
      this.#plan.commands.some(({ reaction, timeoutMs }) => reaction.kind === 'answer' && reaction.afterMs > timeoutMs)
    ) {
      await stage.pause(LATE_MS);
    }
    await platform.readAll();
    const last = await watch.untilAgreed(AGREED_MS);
    await reading.untilRest(
      () => this.#senders.every((sender) => sender.done),
      () => this.#senders.reduce((sum, { stored }) => sum + stored, 0),
    );
    this.#options.signal?.throwIfAborted();
    const tookOver = (await rig.takeOvers()) - takeOvers;
    const isSpoiled = tookOver > (fault.rewinds === true ? 1 : 0);
    const connections = this.#connections();
    await lookEverywhere(rig, dirs, this.#canaries);
    const { after, violations: left } = await this.#untilSettled(before);
    const presence = [
      ...agreed.violations,
      ...last.violations,
      ...checkPresenceEvents(this.#events, ORDERED, connections),
    ];
    const unfinished = this.#senders.filter(({ done }) => !done).map(({ code }) => code);
    const seen = { commands: this.#commands, events: this.#events };
    const findings = {
      ...seen,
      presence,
      whole: [
        ...left,
        ...this.#canaries.leaks,
        ...this.#unclean(),
        ...checkEnough({ ...seen, unfinished, fault }),
        ...checkServed(this.#commands),
      ],
    };
    const violations = isSpoiled ? standing(findings) : judge(findings);
    if (isSpoiled && violations.length === 0) throw new MachineTooBusy(`${tookOver} times, a replica took over`);
    return {
      commands: this.#commands,
      events: this.#events,
      agreedMs: agreed.tookMs,
      before,
      after,
      logs: rig.started.map((process) => ({ name: process.name, lines: process.lines() })),
      violations,
      tookMs,
    };
  }

  async #provision(): Promise<void> {
    const { fault, seed } = this.#options;
    const rig = this.#rig;
    const { senders, eventsPerSecond } = this.#load;
    const senderCodes = Array.from({ length: senders }, (_, i) => `210235CHAOSE${String(i).padStart(8, '0')}`);
    const secrets = await rig.provision([...this.#plan.devices.map(({ code }) => code), ...senderCodes]);
    for (const [code, secret] of secrets) this.#canaries.add(`the secret of ${code}`, secret);
    this.#canaries.add('the API key', rig.broker.apiKey);
    this.#canaries.add('the key of secrets', rig.broker.secretKey);
    this.#canaries.add('the key of nonces', rig.broker.nonceKey);
    const chance = new Chance(seed ^ 0x5eed);
    const common = { urls: rig.edgeUrls, timers: this.#timers };
    for (const { code } of this.#plan.devices) {
      const secret = secrets.get(code) ?? '';
      this.#witnesses.push(new Witness({ ...common, code, secret, recorder: this.#commands, chance }));
    }
    const events = Math.round((this.#loadMs / 1_000) * eventsPerSecond);
    const dataBytes = this.#dataBytes;
    for (const [i, code] of senderCodes.entries()) {
      const sender = new Sender({
        ...common,
        code,
        secret: secrets.get(code) ?? '',
        firstUrl: i % EDGES,
        events,
        // What an outage held up is caught up with.
        perSecond: Math.min(48, eventsPerSecond * 1.5),
        dataBytes,
        repeats: true,
        onSent: (each) => this.#onSent(each),
        recorder: this.#events,
      });
      this.#senders.push(sender);
    }
    if (fault.leaves !== true && fault.dataBytes !== undefined) throw new TypeError('padding is for those who leave');
  }

  get #dataBytes(): number {
    const { senders, eventsPerSecond } = this.#load;
    return this.#options.fault.dataBytes?.(Math.round((this.#loadMs / 1_000) * eventsPerSecond) * senders) ?? 0;
  }

  #connections(): readonly Connection[] {
    return [...this.#witnesses, ...this.#senders].map(({ code, online, edge }) => ({
      code,
      online,
      edge: `edge-${edge + 1}`,
    }));
  }

  get #open(): number {
    return this.#connections().filter(({ online }) => online).length;
  }

  /** Until what was left behind is within its bounds, or long enough after. */
  async #untilSettled(before: Footprint): Promise<{ after: Footprint; violations: ReturnType<typeof checkFootprint> }> {
    const { fault } = this.#options;
    const untilMs = performance.now() + SETTLED_MS;
    const { devices, senders } = this.#load;
    const load = {
      devices: devices + senders,
      commands: this.#plan.commands.length,
      events: this.#events.entries.filter(({ kind }) => kind === 'send').length,
      eventBytes: this.#dataBytes,
      edges: EDGES,
      shards: Number(fault.needs?.env?.LAPI_SHARDS ?? SHARDS),
    };
    for (;;) {
      const after = await takeFootprint(this.#rig, this.#open);
      const violations = checkFootprint(before, after, load);
      if (violations.length === 0 || performance.now() > untilMs || this.#signal.aborted) return { after, violations };
      await sleep(LOOK_MS, undefined, { signal: this.#signal }).catch(() => undefined);
    }
  }

  /** Processes that ended otherwise than by our hand, and failures of the broker's own. */
  #unclean(): readonly { readonly check: string; readonly what: string }[] {
    return [...this.#rig.edges, ...this.#rig.commands].flatMap((process) => {
      const exit = process.exit();
      return exit === undefined ? [] : [{ check: 'alive', what: `${process.name} ended with ${JSON.stringify(exit)}` }];
    });
  }

  #stage(reading: Reading, chance: Chance): Stage {
    const signal = this.#signal;
    const witnesses = this.#witnesses;
    const senders = this.#senders;
    let disturbances = 0;
    const pause = async (ms: number): Promise<void> => {
      await sleep(ms, undefined, { signal }).catch(() => undefined);
    };
    return {
      rig: this.#rig,
      devices: witnesses,
      senders,
      chance,
      at: (edge) => [...witnesses, ...senders].filter((device) => device.online && device.edge === edge),
      nextEvent: async () => {
        const { promise, resolve } = Promise.withResolvers<Sender | undefined>();
        this.#onSent = resolve;
        const sender = await Promise.race([promise, pause(NEXT_EVENT_MS)]);
        this.#onSent = () => undefined;
        const [first] = senders;
        if (first === undefined) throw new TypeError('nobody sends events');
        return sender ?? first;
      },
      leave: () => reading.leave(),
      comeBack: () => reading.comeBack(),
      holdLive: (hold) => reading.holdLive(hold),
      disturb: async (what, { blurs, devices: touched }, work) => {
        const disturbance = ++disturbances;
        const codes = touched?.map(({ code }) => code);
        this.#commands.log({ kind: 'disturb.begin', disturbance, what, blurs, devices: codes });
        this.#events.log({ kind: 'disturb.begin', what });
        await work();
        this.#commands.log({ kind: 'disturb.end', disturbance });
        this.#events.log({ kind: 'disturb.end', what });
      },
      pause,
    };
  }
}
