/** `load -- register`: what one registration costs (goal P3): first GET, 401, signed GET, claim in Redis, 101. Beside it the same two requests
 *  against bare uWebSockets.js with the HMAC and nothing else, and a plain connect to Socket.IO. Then 10,000 devices of two edges, configured
 *  as shipped, lose their connections at the same moment and come back.
 *  CPU is that of the edge and of Redis from connect to 101; the end of the connections is not part of it. */

import { setTimeout as pause } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import { type CpuByRole, cpuDuring, type Metered, totalOf } from '../measure/process-usage.ts';
import { ratioOf, spreadOf } from '../measure/spread.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, shown, tableOf } from '../report/table.ts';
import type { DevicesVerbs, EntryTally } from '../simulate/devices-main.ts';
import type { DeviceIdentity, Dialect } from '../simulate/dialect.ts';
import { LapiSystem } from '../system/service.ts';
import { type SingleSystem, startBareRegister, startSocketIoAlone } from '../system/single.ts';
import { Worker } from '../worker/worker.ts';

export interface RegisterOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

const AT_ONCE = 64;
const ANSWER_BYTES = 200;
const STORM_EDGES = 2;
/** Admission out of the way: what is measured is the work, not the brake. */
const UNLIMITED = { LAPI_REGISTRATIONS_PER_SECOND: '1000000' };

interface Contender {
  readonly name: string;
  readonly system: Metered;
  readonly port: number;
  readonly dialect: Dialect;
  /** Resolves when the devices of the last round are gone. */
  readonly settled: () => Promise<void>;
}

interface Figures {
  readonly usPerEntry: number[];
  readonly byRole: Record<string, number>[];
  readonly perSecond: number[];
}

interface Storm {
  readonly first: EntryTally;
  readonly back: EntryTally;
}

export async function measureRegister({ quick, say }: RegisterOptions): Promise<void> {
  const rounds = quick ? 2 : 5;
  const count = quick ? 1_000 : 4_000;
  const stormDevices = quick ? 2_000 : 10_000;
  const stops: (() => Promise<void>)[] = [];
  try {
    const deviceWorker = new Worker<DevicesVerbs>('simulate/devices-main');
    stops.push(() => deviceWorker.stop());
    say('Starting the systems …');
    const lapi = await LapiSystem.start({ edges: 1, commands: 1, subscriptions: false, edgeEnv: UNLIMITED });
    stops.push(() => lapi.stop());
    say(`Provisioning ${count} devices …`);
    const devices = await lapi.provision(count, 'LOAD');
    const bare: SingleSystem = await startBareRegister(devices);
    const io: SingleSystem = await startSocketIoAlone();
    stops.push(
      () => bare.stop(),
      () => io.stop(),
    );
    const [edge] = lapi.edges;
    if (edge === undefined) throw new RangeError('no edge');
    const noWait = (): Promise<void> => pause(300);
    const contenders: Contender[] = [
      {
        name: 'ours',
        // The command service has no part in a registration.
        system: { processes: [{ role: 'edge', pid: edge.pid }], redis: lapi.redis },
        port: edge.port,
        dialect: 'lapi',
        settled: async () => {
          await waitFor(async () => (await lapi.metric(edge, 'lapi_sessions')) === 0, {
            deadlineMs: 30_000,
            what: 'all sessions to end',
          });
          await pause(300);
        },
      },
      { name: 'bare handshake', system: bare, port: bare.port, dialect: 'lapi', settled: noWait },
      { name: 'Socket.IO connect', system: io, port: io.port, dialect: 'socketio', settled: noWait },
    ];
    say('Warming up …');
    for (let i = 0; i < 2; i++) for (const each of contenders) await round(deviceWorker, each, devices);
    const figures = new Map<string, Figures>(
      contenders.map(({ name }) => [name, { usPerEntry: [], byRole: [], perSecond: [] }]),
    );
    for (let i = 0; i < rounds; i++) {
      for (const contender of contenders) {
        const { cpu, tally } = await round(deviceWorker, contender, devices);
        const mine = figures.get(contender.name) as Figures;
        mine.usPerEntry.push(totalOf(cpu) / count);
        mine.byRole.push(Object.fromEntries(Object.entries(cpu).map(([role, us]) => [role, us / count])));
        mine.perSecond.push((count / tally.elapsedMs) * 1_000);
      }
      const line = [...figures].map(([name, { usPerEntry }]) => `${name} ${usPerEntry.at(-1)?.toFixed(1)} µs`);
      say(`round ${i + 1} of ${rounds}: ${line.join(', ')}`);
    }
    const facts = await surroundings(lapi.redis);

    const storm = await stormOf(deviceWorker, stormDevices, say, stops);
    report(figures, storm, stormDevices, say);
    const file = writeResult('register', {
      ...facts,
      settings: { rounds, devicesPerRound: count, atOnce: AT_ONCE, stormDevices, stormEdges: STORM_EDGES },
      figures: Object.fromEntries(figures),
      storm,
    });
    say(
      `\nWritten to ${file}. Machine: ${facts.cores} × ${facts.cpu}, load ${facts.loadAtStart.toFixed(1)}; commit ${facts.commit}.`,
    );
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

/** All devices in, once; then out again. */
async function round(
  deviceWorker: Worker<DevicesVerbs>,
  { name, system, port, dialect, settled }: Contender,
  devices: readonly DeviceIdentity[],
): Promise<{ cpu: CpuByRole; tally: EntryTally }> {
  const { result: tally, cpu } = await cpuDuring(system, () =>
    deviceWorker.ask('enter', {
      group: name,
      dialect,
      ports: [port],
      devices,
      answerBytes: ANSWER_BYTES,
      atOnce: AT_ONCE,
      retry: false,
    }),
  );
  if (tally.entered !== devices.length)
    throw new Error(`${name}: ${tally.entered} of ${devices.length} devices came in: ${JSON.stringify(tally)}`);
  const { in: stayed } = await deviceWorker.ask('counts', name);
  if (stayed !== devices.length) throw new Error(`${name}: only ${stayed} of ${devices.length} devices stayed`);
  await deviceWorker.ask('forget', name);
  await settled();
  return { cpu, tally };
}

/** Two edges as they are shipped, admission included; only the limit of connections per address is raised. */
async function stormOf(
  deviceWorker: Worker<DevicesVerbs>,
  count: number,
  say: (line: string) => void,
  stops: (() => Promise<void>)[],
): Promise<Storm> {
  say(`Starting ${STORM_EDGES} edges for ${count} devices …`);
  const system = await LapiSystem.start({ edges: STORM_EDGES, commands: 1, subscriptions: true });
  stops.push(() => system.stop());
  const devices = await system.provision(count, 'STORM');
  const first = await deviceWorker.ask('enter', {
    group: 'storm',
    dialect: 'lapi',
    ports: system.edges.map(({ port }) => port),
    devices,
    answerBytes: ANSWER_BYTES,
    atOnce: count,
    retry: true,
  });
  // Subscriptions begin two seconds after the registration.
  await pause(4_000);
  say(`Cutting ${count} devices off …`);
  await deviceWorker.ask('cut', 'storm');
  const back = await deviceWorker.ask('comeBack', 'storm');
  const { in: stayed } = await deviceWorker.ask('counts', 'storm');
  if (stayed !== count) throw new Error(`only ${stayed} of ${count} devices are back`);
  await deviceWorker.ask('forget', 'storm');
  return { first, back };
}

function report(figures: ReadonlyMap<string, Figures>, storm: Storm, count: number, say: (line: string) => void): void {
  const rows = [...figures].map(([name, { usPerEntry, byRole, perSecond }]) => {
    const role = (key: string): string =>
      byRole[0]?.[key] === undefined ? '' : shown(spreadOf(byRole.map((each) => each[key] ?? 0)));
    return [
      name,
      shown(spreadOf(usPerEntry)),
      role('edge'),
      role('redis'),
      shown(spreadOf(usPerEntry.map((us) => 1e6 / us)), 0),
      shown(spreadOf(perSecond), 0),
    ];
  });
  say('\nCPU per device that comes in, in µs: median (min–max)\n');
  say(tableOf(['', 'all', 'edge', 'Redis', 'per second of CPU', 'per second here'], rows));
  const told = (what: string, tally: EntryTally): string[] => [
    what,
    (tally.elapsedMs / 1_000).toFixed(1),
    (tally.p50Ms / 1_000).toFixed(1),
    (tally.p99Ms / 1_000).toFixed(1),
    Object.entries(tally.refusals)
      .map(([status, times]) => `${times} × ${status}`)
      .join(', ') || '0',
    String(tally.mostRefusals),
  ];
  say(`\n${count} devices on ${STORM_EDGES} edges, all at the same moment, in seconds\n`);
  say(
    tableOf(
      ['', 'all in', 'p50', 'p99', 'refusals', 'most of one device'],
      [told('first time', storm.first), told('cut off and back', storm.back)],
    ),
  );
  const us = (name: string): readonly number[] => figures.get(name)?.usPerEntry ?? [];
  const goals: Goal[] = [
    {
      name: 'P3 CPU, ours to the bare handshake',
      measured: ratioOf(us('ours'), us('bare handshake')).median,
      limit: 2,
      sense: 'at most',
      unit: ' ×',
    },
    {
      name: 'P3 rate per CPU, ours to Socket.IO',
      measured: ratioOf(us('Socket.IO connect'), us('ours')).median,
      limit: 3,
      sense: 'at least',
      unit: ' ×',
    },
    {
      name: `P3 ${count} devices cut off and back`,
      measured: storm.back.elapsedMs / 1_000,
      limit: 20,
      sense: 'at most',
      unit: ' s',
    },
  ];
  say(`\n${goalTable(goals)}`);
}
