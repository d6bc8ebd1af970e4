/** `load -- isolation`: what everybody else notices of one slow or hostile peer (reliability I4.5: at most 50 ms more at p99, memory bounded).
 *  One broker, as shipped. A control group is measured all the time: devices that are called, an API that is asked, events that reach an SSE and a
 *  WebSocket reader. Each disturbance follows an undisturbed window of the same length, so that what else the machine does meets both; the
 *  figures to look at are differences of two such windows. Beside them: resident memory of every process before, at most and after, and what
 *  the broker's own metrics say it did. */

import { setTimeout as pause } from 'node:timers/promises';
import { rssBytesOf } from '../measure/process-usage.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { tableOf } from '../report/table.ts';
import type { CallerVerbs, CallTally } from '../simulate/caller-main.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import type { ListenerVerbs, ListenLatency } from '../simulate/listener-main.ts';
import type { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';
import { DISTURBANCES, type Disturbance, Stage } from './disturbance.ts';

export interface IsolationOptions {
  readonly quick: boolean;
  /** Part of the names of the disturbances to run; empty: all. */
  readonly only: string;
  readonly say: (line: string) => void;
}

const MiB = 2 ** 20;
const DEVICES = 100;
const CALLS_PER_SECOND = 100;
const READS_PER_SECOND = 50;
const EVENTS_PER_SECOND = 100;
const EVENT = { kind: 'alarm', bytes: 400 } as const;
const URL = '/LAPI/V1.0/System/DeviceInfo';
const WINDOW_MS = 10_000;
const QUICK_WINDOW_MS = 3_000;
/** So that who takes nothing for 30 s is seen to be closed. */
const LONG_WINDOW_MS = 45_000;
const WARM_UP_MS = 3_000;
/** Before the next undisturbed window. */
const SETTLE_MS = 3_000;
const SAMPLE_MS = 200;
const TRANSPORTS = ['sse', 'websocket'] as const;

/** Milliseconds of the control group in one window. */
interface Seen {
  readonly calls: CallTally;
  readonly reads: CallTally;
  readonly sse: ListenLatency;
  readonly websocket: ListenLatency;
  readonly events: { readonly accepted: number; readonly refused: number; readonly notSent: number };
}

type Role = 'edge' | 'command' | 'redis';
const ROLES: readonly Role[] = ['edge', 'command', 'redis'];

interface Memory {
  readonly before: number;
  readonly most: number;
  readonly after: number;
}

interface Outcome {
  readonly name: string;
  readonly windowMs: number;
  readonly undisturbed: Seen;
  readonly disturbed: Seen;
  readonly rssBytes: Readonly<Record<Role, Memory>>;
  readonly disturber: Readonly<Record<string, unknown>>;
  readonly broker: Readonly<Record<string, number>>;
}

/** Those that tell of the fate of somebody, and the values among them that only say that all is well. */
const TOLD =
  /^lapi_(?:session_closed|send_dropped|device_over_rate|edge_events|edge_commands|register_rejected|device_frames|commands|http_requests|event_slow_closed|event_gaps|webhook_deliveries|unread_answers_dropped|foreign_frames)/;
const WELL = /="(?:stored|succeeded|answered|200|101|keepalive|notification|response)"/;

export async function measureIsolation({ quick, only, say }: IsolationOptions): Promise<void> {
  const chosen = DISTURBANCES.filter(({ name }) => name.includes(only));
  if (chosen.length === 0) throw new RangeError(`no disturbance has "${only}" in its name`);
  const stops: (() => Promise<void>)[] = [];
  try {
    say('Starting the system …');
    const { system, stage } = await Stage.startSystem();
    stops.push(
      () => system.stop(),
      () => stage.stop(),
    );
    const control = new Control(system);
    stops.push(() => control.stop());
    await stage.enter();
    await control.enter(stage.edgePort);
    const facts = await surroundings(system.redis);
    await control.watch(WARM_UP_MS);

    const outcomes: Outcome[] = [];
    for (const disturbance of chosen) {
      const windowMs = quick ? QUICK_WINDOW_MS : disturbance.isLong ? LONG_WINDOW_MS : WINDOW_MS;
      const outcome = await disturb(system, stage, control, disturbance, windowMs);
      outcomes.push(outcome);
      tell(outcome, say);
    }
    report(outcomes, say);
    const file = writeResult('isolation', { ...facts, outcomes });
    say(`\nWritten to ${file}. Load of the machine at the start: ${facts.loadAtStart.toFixed(1)}.`);
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

async function disturb(
  system: LapiSystem,
  stage: Stage,
  control: Control,
  disturbance: Disturbance,
  windowMs: number,
): Promise<Outcome> {
  const watch = async (): Promise<Seen> => {
    const [seen] = await Promise.all([control.watch(windowMs), disturbance.noisy ? stage.noise(windowMs) : undefined]);
    return seen;
  };
  const undisturbed = await watch();
  const countsBefore = await countsOf(system);
  const memory = new MemoryWatch(system);
  const end = await disturbance.begin(stage);
  const disturbed = await watch();
  const disturber = await end();
  await pause(SETTLE_MS);
  const rssBytes = memory.end();
  const broker = grown(countsBefore, await countsOf(system));
  // What the disturber did to the readers in its last moment is not of the next window.
  await control.watch(SAMPLE_MS);
  return { name: disturbance.name, windowMs, undisturbed, disturbed, rssBytes, disturber, broker };
}

/** The devices, callers and readers that are well-behaved. */
class Control {
  readonly #system: LapiSystem;
  readonly #devices = new Worker<DevicesVerbs>('simulate/devices-main');
  readonly #caller = new Worker<CallerVerbs>('simulate/caller-main');
  readonly #listeners = new Worker<ListenerVerbs>('simulate/listener-main');
  #codes: string[] = [];

  constructor(system: LapiSystem) {
    this.#system = system;
  }

  async enter(edgePort: number): Promise<void> {
    const devices = await this.#system.provision(DEVICES, 'CONTROL');
    this.#codes = devices.map(({ code }) => code);
    const plan = { dialect: 'lapi', ports: [edgePort], answerBytes: 200, atOnce: 16, retry: false } as const;
    const { entered } = await this.#devices.ask('enter', { ...plan, group: 'control', devices });
    if (entered !== DEVICES) throw new Error(`${entered} of ${DEVICES} devices came in`);
    const { apiPort: port, headers } = this.#system;
    for (const transport of TRANSPORTS) {
      await this.#listeners.ask('listen', {
        group: transport,
        port,
        headers,
        transport,
        count: 1,
        devices: 'CONTROL*',
      });
    }
    // Nothing is sent to a device in its first second.
    await pause(1_500);
  }

  async watch(durationMs: number): Promise<Seen> {
    const { apiPort: port, headers } = this.#system;
    const plan = { port, headers, codes: this.#codes, durationMs };
    const calls = { ...plan, path: URL, leastBytes: 180, connections: 128, perSecond: CALLS_PER_SECOND };
    const reads = { ...plan, path: '', leastBytes: 100, connections: 64, perSecond: READS_PER_SECOND };
    const events = { group: 'control', shape: EVENT, window: 20, durationMs, perSecond: EVENTS_PER_SECOND };
    const [called, read, notified] = await Promise.all([
      this.#caller.ask('pace', calls),
      this.#caller.ask('pace', reads),
      this.#devices.ask('notify', events),
    ]);
    const sse = await this.#listeners.ask('latency', 'sse');
    const websocket = await this.#listeners.ask('latency', 'websocket');
    for (const transport of TRANSPORTS) {
      const { ended, missed } = await this.#listeners.ask('tally', transport);
      if (ended > 0 || missed > 0)
        throw new Error(`the ${transport} reader was closed, or has missed ${missed} events`);
    }
    const { lost } = await this.#devices.ask('counts', 'control');
    if (lost > 0) throw new Error(`${lost} devices of the control group lost their connection`);
    return { calls: called, reads: read, sse, websocket, events: notified };
  }

  async stop(): Promise<void> {
    await Promise.all([this.#devices, this.#caller, this.#listeners].map((worker) => worker.stop()));
  }
}

/** Looks at the resident memory of all processes until it is ended. */
class MemoryWatch {
  readonly #look: () => Record<Role, number>;
  readonly #before: Record<Role, number>;
  readonly #most: Record<Role, number>;
  readonly #timer: NodeJS.Timeout;

  constructor(system: LapiSystem) {
    const pids = {
      edge: system.edges[0]?.pid ?? 0,
      command: system.commands[0]?.pid ?? 0,
      redis: system.redis.pid() ?? 0,
    };
    this.#look = () => ({
      edge: rssBytesOf(pids.edge),
      command: rssBytesOf(pids.command),
      redis: rssBytesOf(pids.redis),
    });
    this.#before = this.#look();
    this.#most = { ...this.#before };
    this.#timer = setInterval(() => this.#note(), SAMPLE_MS);
  }

  end(): Record<Role, Memory> {
    clearInterval(this.#timer);
    this.#note();
    const after = this.#look();
    const of = (role: Role): Memory => ({
      before: this.#before[role],
      most: this.#most[role],
      after: after[role],
    });
    return { edge: of('edge'), command: of('command'), redis: of('redis') };
  }

  #note(): void {
    const now = this.#look();
    for (const role of ROLES) this.#most[role] = Math.max(this.#most[role], now[role]);
  }
}

async function countsOf(system: LapiSystem): Promise<ReadonlyMap<string, number>> {
  const all = await Promise.all([...system.edges, ...system.commands].map((service) => system.metrics(service)));
  return new Map(all.flatMap((each) => [...each]));
}

function grown(before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [series, value] of after) {
    const more = value - (before.get(series) ?? 0);
    if (more > 0 && TOLD.test(series) && !WELL.test(series)) counts[shortOf(series)] = more;
  }
  return counts;
}

function shortOf(series: string): string {
  return series
    .replace(/(?:,)?service="\w+"/, '')
    .replace('{,', '{')
    .replace('{}', '')
    .replace(/^lapi_/, '');
}

function failuresOf({ calls, reads, events }: Seen): number {
  const called = [calls, reads].reduce((sum, each) => sum + each.failed + each.unanswered + each.notMade, 0);
  return called + events.refused + events.notSent;
}

const mebi = (bytes: number): string => (bytes / MiB).toFixed(0);

function tell({ name, disturbed, undisturbed, disturber, broker }: Outcome, say: (line: string) => void): void {
  const p99 = ({ calls, reads, sse, websocket }: Seen): string =>
    [calls, reads, sse, websocket].map(({ p99Ms }) => p99Ms.toFixed(0)).join(' ');
  say(`\n${name}: p99 of calls, reads, SSE, WebSocket ${p99(undisturbed)} → ${p99(disturbed)} ms`);
  say(`  disturber: ${JSON.stringify(disturber)}\n  broker: ${JSON.stringify(broker)}`);
  for (const { firstFailure } of [disturbed.calls, disturbed.reads]) if (firstFailure !== '') say(`  ${firstFailure}`);
}

function report(outcomes: readonly Outcome[], say: (line: string) => void): void {
  const pair = (a: number, b: number, digits = 0): string => `${a.toFixed(digits)} → ${b.toFixed(digits)}`;
  const latencies = outcomes.map(({ name, undisturbed: a, disturbed: b }) => [
    name,
    pair(a.calls.p50Ms, b.calls.p50Ms, 1),
    pair(a.calls.p99Ms, b.calls.p99Ms),
    pair(a.reads.p99Ms, b.reads.p99Ms),
    pair(a.sse.p99Ms, b.sse.p99Ms),
    pair(a.websocket.p99Ms, b.websocket.p99Ms),
    `${failuresOf(a)} → ${failuresOf(b)}`,
  ]);
  const head = [
    'undisturbed → disturbed, ms',
    'call p50',
    'call p99',
    'read p99',
    'SSE p99',
    'WebSocket p99',
    'failed',
  ];
  say(`\nThe others\n\n${tableOf(head, latencies)}`);
  const memory = outcomes.map(({ name, rssBytes }) => [
    name,
    ...ROLES.map((role) => {
      const { before, most, after } = rssBytes[role];
      return `${mebi(before)} / ${mebi(most)} / ${mebi(after)}`;
    }),
  ]);
  say(`\nResident memory, MiB: before / most / after\n\n${tableOf(['', ...ROLES], memory)}`);
}
