/** `load -- command`: what one direct command costs (goals P1 and P2), ours beside a bare loop, BullMQ and Socket.IO, all in one run.
 *  CPU is that of edges, command process and Redis together, from their own accounting, over rounds that begin and end at rest; the load
 *  generator and the devices are not counted. Systems take turns within each round, so that noise of the machine meets all of them. */

import { setTimeout as pause } from 'node:timers/promises';
import { ratioOf, type Spread, spreadOf } from '../measure/spread.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, shown, tableOf } from '../report/table.ts';
import type { CallerVerbs } from '../simulate/caller-main.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import { startLoop, startSocketIo } from '../system/loop.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';
import { Bench, type Contender, type Figures, type Latency } from './bench.ts';

export interface CommandOptions {
  readonly quick: boolean;
  /** Only ours and the bare loop, for work on the fast path. */
  readonly core: boolean;
  readonly say: (line: string) => void;
}

const EDGES = 2;
const IDLE_EDGES = 4;
const DEVICES = 256;
const CONNECTIONS = 128;
const SMALL_BYTES = 200;
const LARGE_BYTES = 100_000;
const LARGE_CONNECTIONS = 32;
const PACED_PER_SECOND = 1_000;
const PATH = '/LAPI/V1.0/System/DeviceInfo';

export async function measureCommand({ quick, core, say }: CommandOptions): Promise<void> {
  const rounds = quick ? 2 : 5;
  const durationMs = quick ? 1_500 : 4_000;
  const pacedMs = quick ? 3_000 : 8_000;
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
    const codes = devices.map(({ code }) => code);
    const bare = await startLoop('bare', EDGES, codes);
    stops.push(() => bare.stop());
    const ours: Contender = {
      name: 'ours',
      system: lapi,
      apiPort: lapi.apiPort,
      headers: lapi.headers,
      dialect: 'lapi',
      edgePorts: lapi.edges.map(({ port }) => port),
    };
    const contenders: Contender[] = [
      ours,
      {
        name: 'bare loop',
        system: bare,
        apiPort: bare.apiPort,
        headers: '',
        dialect: 'plain',
        edgePorts: bare.edgePorts,
      },
    ];
    let socketIo: Awaited<ReturnType<typeof startSocketIo>> | undefined;
    if (!core) {
      const bull = await startLoop('bullmq', EDGES, codes);
      stops.push(() => bull.stop());
      socketIo = await startSocketIo(EDGES);
      const io = socketIo;
      stops.push(() => io.stop());
      contenders.push(
        {
          name: 'BullMQ',
          system: bull,
          apiPort: bull.apiPort,
          headers: '',
          dialect: 'plain',
          edgePorts: bull.edgePorts,
        },
        {
          name: 'Socket.IO',
          system: io,
          apiPort: io.apiPort,
          headers: '',
          dialect: 'socketio',
          edgePorts: io.edgePorts,
        },
      );
    }

    const bench = new Bench({ caller, deviceWorker, devices, edges: EDGES, say });
    await bench.enter(contenders, SMALL_BYTES);
    const plan = { path: PATH, connections: CONNECTIONS, durationMs, leastBytes: SMALL_BYTES - 20 };
    say('Warming up …');
    await bench.warmUp(contenders, plan);
    const small = await bench.rounds(contenders, plan, rounds, `${SMALL_BYTES} B`);

    const latency = await bench.latency(
      contenders.slice(0, 2),
      { ...plan, durationMs: pacedMs },
      PACED_PER_SECOND,
      rounds,
    );

    await bench.enter(contenders.slice(0, 2), LARGE_BYTES);
    const largePlan = { path: PATH, connections: LARGE_CONNECTIONS, durationMs, leastBytes: LARGE_BYTES - 20 };
    await bench.warmUp(contenders.slice(0, 2), largePlan);
    const large = await bench.rounds(contenders.slice(0, 2), largePlan, rounds, '100 KB');

    let grown: Map<string, Figures> | undefined;
    if (socketIo !== undefined) {
      say(`Adding ${IDLE_EDGES} edges without devices …`);
      for (let i = 0; i < IDLE_EDGES; i++) {
        await lapi.addEdge();
        await socketIo.addEdge();
      }
      await pause(2_000);
      const grownContenders = contenders.filter(({ name }) => name === 'ours' || name === 'Socket.IO');
      await bench.enter([ours], SMALL_BYTES);
      await bench.warmUp(grownContenders, plan);
      grown = await bench.rounds(grownContenders, plan, rounds, `${IDLE_EDGES} idle edges more`);
    }
    const facts = await surroundings(lapi.redis);
    report({ small, large, latency, grown, say });
    const file = writeResult('command', {
      ...facts,
      settings: {
        rounds,
        durationMs,
        edges: EDGES,
        devices: DEVICES,
        connections: CONNECTIONS,
        pacedPerSecond: PACED_PER_SECOND,
      },
      small: Object.fromEntries(small),
      large: Object.fromEntries(large),
      latency: Object.fromEntries(latency),
      grown: grown === undefined ? null : Object.fromEntries(grown),
    });
    say(
      `\nWritten to ${file}. Machine: ${facts.cores} × ${facts.cpu}, load ${facts.loadAtStart.toFixed(1)} at the end; commit ${facts.commit}.`,
    );
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

interface Findings {
  readonly small: ReadonlyMap<string, Figures>;
  readonly large: ReadonlyMap<string, Figures>;
  readonly latency: ReadonlyMap<string, Latency>;
  readonly grown: ReadonlyMap<string, Figures> | undefined;
  readonly say: (line: string) => void;
}

function report({ small, large, latency, grown, say }: Findings): void {
  const rows: string[][] = [];
  const add = (setting: string, figures: ReadonlyMap<string, Figures>): void => {
    for (const [name, { usPerCommand, byRole, perSecond }] of figures) {
      const role = (key: string): string => shown(spreadOf(byRole.map((each) => each[key] ?? 0)));
      rows.push([
        `${name}, ${setting}`,
        shown(spreadOf(usPerCommand)),
        role('edge'),
        role('command'),
        role('redis'),
        shown(spreadOf(perSecond), 0),
      ]);
    }
  };
  add('200 B', small);
  add('100 KB', large);
  if (grown !== undefined) add(`200 B, ${IDLE_EDGES} idle edges more`, grown);
  say(`\nCPU per command in µs, saturated: median (min–max)\n`);
  say(tableOf(['system, answer', 'all', 'edges', 'command', 'Redis', 'per second'], rows));
  say(`\nLatency at ${PACED_PER_SECOND}/s in ms\n`);
  say(
    tableOf(
      ['system', 'p50', 'p99'],
      [...latency].map(([name, { p50Ms, p99Ms }]) => [name, shown(spreadOf(p50Ms), 2), shown(spreadOf(p99Ms), 2)]),
    ),
  );
  const us = (figures: ReadonlyMap<string, Figures> | undefined, name: string): number[] | undefined =>
    figures?.get(name)?.usPerCommand;
  const goals: Goal[] = [];
  const goal = (
    name: string,
    values: readonly number[] | undefined,
    to: readonly number[] | undefined,
    limit: number,
    sense: Goal['sense'],
  ): void => {
    if (values === undefined || to === undefined) return;
    const ratio: Spread = ratioOf(values, to);
    goals.push({ name, measured: ratio.median, limit, sense, unit: ' ×' });
  };
  goal('P1 CPU, ours to the bare loop, 200 B', us(small, 'ours'), us(small, 'bare loop'), 1.35, 'at most');
  goal('   the same, 100 KB', us(large, 'ours'), us(large, 'bare loop'), 1.35, 'at most');
  goal('P1 CPU, BullMQ to ours', us(small, 'BullMQ'), us(small, 'ours'), 5, 'at least');
  goal('P1 CPU, Socket.IO to ours', us(small, 'Socket.IO'), us(small, 'ours'), 4, 'at least');
  goal(`P1 growth of ours with ${IDLE_EDGES} idle edges`, us(grown, 'ours'), us(small, 'ours'), 1.05, 'at most');
  const ours = latency.get('ours');
  const bare = latency.get('bare loop');
  goal('P2 p50, ours to the bare loop', ours?.p50Ms, bare?.p50Ms, 1.5, 'at most');
  goal('P2 p99, ours to the bare loop', ours?.p99Ms, bare?.p99Ms, 2, 'at most');
  say(`\n${goalTable(goals)}`);
  const growth = us(grown, 'Socket.IO');
  const before = us(small, 'Socket.IO');
  if (growth !== undefined && before !== undefined)
    say(`Socket.IO grows with ${IDLE_EDGES} idle edges to ${shown(ratioOf(growth, before), 2)} ×.`);
}
