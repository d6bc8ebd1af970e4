/** `load -- lane`: what one queued command to a device that is there costs (goal P6): accepted, kept, begun, written, answered, recorded, told.
 *  Twice: waiting for the result in the same request (`waitMs`), and with 202 at once, where a round ends when the devices have answered all.
 *  Beside it the direct path of the same broker, and BullMQ with `waitUntilFinished`, which keeps no record for its caller, knows no order per
 *  device, and repeats by luck. CPU is that of edges, command process and Redis, over rounds that begin and end at rest. */

import { ratioOf, spreadOf } from '../measure/spread.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, shown, tableOf } from '../report/table.ts';
import type { CallerVerbs } from '../simulate/caller-main.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import { startLoop } from '../system/loop.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';
import { Bench, type Contender, type Figures, type Latency } from './bench.ts';

export interface LaneOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

const EDGES = 2;
const DEVICES = 256;
const CONNECTIONS = 128;
const ANSWER_BYTES = 200;
const PACED_PER_SECOND = 500;
const URL = '/LAPI/V1.0/System/DeviceInfo';
const DIRECT = 'direct';
const WAITED = 'queue, result awaited';
const QUEUED = 'queue, 202 at once';
const BULLMQ = 'BullMQ';
/** Of what says that a command is kept. */
const ACCEPTED_BYTES = 150;

function commandText(waitMs: number): string {
  return JSON.stringify({ mode: 'queue', method: 'GET', url: URL, ...(waitMs === 0 ? {} : { waitMs }) });
}

export async function measureLane({ quick, say }: LaneOptions): Promise<void> {
  const rounds = quick ? 2 : 5;
  const durationMs = quick ? 1_500 : 4_000;
  const pacedMs = quick ? 3_000 : 8_000;
  const callsPerRound = quick ? 3_000 : 10_000;
  const stops: (() => Promise<void>)[] = [];
  try {
    const caller = new Worker<CallerVerbs>('simulate/caller-main');
    const deviceWorker = new Worker<DevicesVerbs>('simulate/devices-main');
    stops.push(
      () => caller.stop(),
      () => deviceWorker.stop(),
    );
    say('Starting the systems …');
    const lapi = await LapiSystem.start({ edges: EDGES, commands: 1, subscriptions: false });
    stops.push(() => lapi.stop());
    const devices = await lapi.provision(DEVICES, 'LOAD');
    const bull = await startLoop(
      'bullmq',
      EDGES,
      devices.map(({ code }) => code),
    );
    stops.push(() => bull.stop());
    const direct: Contender = {
      name: DIRECT,
      system: lapi,
      apiPort: lapi.apiPort,
      headers: lapi.headers,
      dialect: 'lapi',
      edgePorts: lapi.edges.map(({ port }) => port),
    };
    const bullmq: Contender = {
      name: BULLMQ,
      system: bull,
      apiPort: bull.apiPort,
      headers: '',
      dialect: 'plain',
      edgePorts: bull.edgePorts,
    };
    const waited: Contender = {
      ...direct,
      name: WAITED,
      group: DIRECT,
      call: { path: '/commands', body: commandText(10_000) },
    };
    const queued: Contender = {
      ...direct,
      name: QUEUED,
      group: DIRECT,
      call: { path: '/commands', body: commandText(0), status: 202, leastBytes: ACCEPTED_BYTES },
      callsPerRound,
    };
    const contenders = [direct, waited, queued, bullmq];

    const bench = new Bench({ caller, deviceWorker, devices, edges: EDGES, say });
    await bench.enter([direct, bullmq], ANSWER_BYTES);
    const shape = { path: URL, connections: CONNECTIONS, durationMs, leastBytes: ANSWER_BYTES - 20 };
    say('Warming up …');
    await bench.warmUp(contenders, shape);
    const figures = await bench.rounds(contenders, shape, rounds, `${ANSWER_BYTES} B`);
    const latency = await bench.latency(
      [direct, waited, bullmq],
      { ...shape, durationMs: pacedMs },
      PACED_PER_SECOND,
      rounds,
    );
    const facts = await surroundings(lapi.redis);
    report(figures, latency, say);
    const file = writeResult('lane', {
      ...facts,
      settings: {
        rounds,
        durationMs,
        callsPerRound,
        edges: EDGES,
        devices: DEVICES,
        connections: CONNECTIONS,
        pacedPerSecond: PACED_PER_SECOND,
      },
      figures: Object.fromEntries(figures),
      latency: Object.fromEntries(latency),
    });
    say(
      `\nWritten to ${file}. Machine: ${facts.cores} × ${facts.cpu}, load ${facts.loadAtStart.toFixed(1)} at the end; commit ${facts.commit}.`,
    );
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

function report(
  figures: ReadonlyMap<string, Figures>,
  latency: ReadonlyMap<string, Latency>,
  say: (line: string) => void,
): void {
  const rows = [...figures].map(([name, { usPerCommand, byRole, perSecond }]) => {
    const role = (key: string): string => shown(spreadOf(byRole.map((each) => each[key] ?? 0)));
    const redisShare = spreadOf(byRole.map(({ redis = 0 }, round) => (100 * redis) / (usPerCommand[round] as number)));
    return [
      name,
      shown(spreadOf(usPerCommand)),
      role('edge'),
      role('command'),
      role('redis'),
      `${shown(redisShare, 0)} %`,
      shown(spreadOf(perSecond), 0),
    ];
  });
  say(`\nCPU per command in µs, saturated: median (min–max)\n`);
  say(tableOf(['', 'all', 'edges', 'command', 'Redis', 'Redis', 'per second'], rows));
  say(`\nLatency at ${PACED_PER_SECOND}/s in ms\n`);
  say(
    tableOf(
      ['', 'p50', 'p99'],
      [...latency].map(([name, { p50Ms, p99Ms }]) => [name, shown(spreadOf(p50Ms), 2), shown(spreadOf(p99Ms), 2)]),
    ),
  );
  const us = (name: string): readonly number[] => figures.get(name)?.usPerCommand ?? [];
  const ratio = (name: string): number => ratioOf(us(name), us(DIRECT)).median;
  const goals: Goal[] = [
    { name: 'P6 CPU, result awaited, to direct', measured: ratio(WAITED), limit: 4, sense: 'at most', unit: ' ×' },
    { name: '   the same, 202 at once', measured: ratio(QUEUED), limit: 4, sense: 'at most', unit: ' ×' },
    {
      name: `P6 p99 at ${PACED_PER_SECOND}/s`,
      measured: spreadOf(latency.get(WAITED)?.p99Ms ?? []).median,
      limit: 120,
      sense: 'at most',
      unit: ' ms',
    },
  ];
  say(`\n${goalTable(goals)}`);
  say(`BullMQ costs ${shown(ratioOf(us(BULLMQ), us(WAITED)), 2)} × the awaited queued command.`);
}
