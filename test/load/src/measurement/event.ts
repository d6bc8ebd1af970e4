/** `load -- event`: what an event costs from a device to a subscriber (goal P7), ours beside a bare loop: events stored and delivered per second,
 *  latency at half of that, what each further live subscriber costs, events with pictures. One edge, one command service.
 *  A round counts only when every event that was acknowledged to a device has reached every subscriber: a figure over lost events would be a
 *  figure of something else. Systems take turns within each round, so that noise of the machine meets all of them. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { waitFor } from '@lapi-broker/fixture';
import { type CpuByRole, cpuDuring, type Metered, rssBytesOf, totalOf } from '../measure/process-usage.ts';
import { slopeOf, spreadOf } from '../measure/spread.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, shown, tableOf } from '../report/table.ts';
import type { DevicesVerbs, NotifyPlan, NotifyTally } from '../simulate/devices-main.ts';
import type { Dialect } from '../simulate/dialect.ts';
import type { ListenerVerbs, ListenPlan } from '../simulate/listener-main.ts';
import { startEventLoop } from '../system/loop.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';

export interface EventOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

const DEVICES = 400;
const ALARM = { kind: 'alarm', bytes: 400 } as const;
const IMAGE = { kind: 'image', bytes: 700_000 } as const;
/** Each device is allowed 50 messages a second: together they may send more than two cores can take. */
const WINDOW = 2;
const PACED_WINDOW = 50;
/** At which further subscribers are counted, and how many of them. */
const SUBSCRIBED_PER_SECOND = 1_000;
const SUBSCRIBERS = [1, 25, 50, 100];
/** Far below what the edge lets wait, so that nothing is refused. */
const IMAGES_AT_ONCE = 24;
const SETTLE_MS = 300;
const DELIVERY_DEADLINE_MS = 30_000;

interface Contender {
  readonly name: string;
  readonly system: Metered;
  readonly group: string;
  readonly listen: Omit<ListenPlan, 'group' | 'count'>;
}

interface Round {
  readonly cpuUs: CpuByRole;
  readonly notified: NotifyTally;
  /** Until the last event was delivered. */
  readonly elapsedMs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

interface Figures {
  readonly perSecond: number[];
  readonly usPerEvent: number[];
  readonly byRole: Record<string, number>[];
  readonly refused: number[];
}

type Workers = { readonly devices: Worker<DevicesVerbs>; readonly listeners: Worker<ListenerVerbs> };

export async function measureEvent({ quick, say }: EventOptions): Promise<void> {
  const rounds = quick ? 2 : 5;
  const durationMs = quick ? 2_000 : 6_000;
  const stops: (() => Promise<void>)[] = [];
  try {
    const workers: Workers = {
      devices: new Worker('simulate/devices-main'),
      listeners: new Worker('simulate/listener-main'),
    };
    stops.push(
      () => workers.devices.stop(),
      () => workers.listeners.stop(),
    );
    const images = await mkdtemp(path.join(tmpdir(), 'lapi-load-images-'));
    stops.push(() => rm(images, { recursive: true, force: true }));
    say('Starting the systems …');
    const store = { LAPI_IMAGE_STORE: `file:${images}` };
    const lapi = await LapiSystem.start({
      edges: 1,
      commands: 1,
      subscriptions: false,
      edgeEnv: { LAPI_REGISTRATIONS_PER_SECOND: '1000000', ...store },
      commandEnv: store,
    });
    stops.push(() => lapi.stop());
    const [edge] = lapi.edges;
    const [command] = lapi.commands;
    if (edge === undefined || command === undefined) throw new RangeError('no edge or no command service');
    const bare = await startEventLoop();
    stops.push(() => bare.stop());
    const devices = await lapi.provision(DEVICES, 'EVENT');
    const enter = async (group: string, dialect: Dialect, ports: readonly number[]): Promise<void> => {
      const plan = { group, dialect, ports, devices, answerBytes: 200, atOnce: 32, retry: false };
      const tally = await workers.devices.ask('enter', plan);
      if (tally.entered !== DEVICES) throw new Error(`${group}: ${tally.entered} of ${DEVICES} devices came in`);
    };
    await enter('ours', 'lapi', [edge.port]);
    await enter('bare', 'plain', bare.edgePorts);
    const ours = { system: lapi, group: 'ours' } as const;
    const way = { port: lapi.apiPort, headers: lapi.headers } as const;
    const sse: Contender = { ...ours, name: 'ours, SSE', listen: { ...way, transport: 'sse' } };
    const contenders: Contender[] = [
      sse,
      { ...ours, name: 'ours, WebSocket', listen: { ...way, transport: 'websocket' } },
      {
        name: 'bare loop',
        system: bare,
        group: 'bare',
        listen: { port: bare.apiPort, headers: '', transport: 'sse' },
      },
    ];

    say('Warming up …');
    const saturated = { shape: ALARM, window: WINDOW, durationMs } as const;
    for (const contender of contenders) await run(workers, contender, 1, { ...saturated, durationMs: 4_000 });
    const figures = new Map<string, Figures>();
    for (let round = 0; round < rounds; round++) {
      for (const contender of contenders) take(figures, contender, await run(workers, contender, 1, saturated));
      const line = [...figures].map(([name, { perSecond }]) => `${name} ${perSecond.at(-1)?.toFixed(0)}/s`);
      say(`400 B, round ${round + 1} of ${rounds}: ${line.join(', ')}`);
    }

    const half = Math.round(spreadOf(figures.get(sse.name)?.perSecond ?? []).median / 2);
    const latency = new Map<string, { p50Ms: number[]; p99Ms: number[] }>();
    for (let round = 0; round < rounds; round++) {
      for (const contender of contenders) {
        const paced = { shape: ALARM, window: PACED_WINDOW, durationMs, perSecond: half };
        const { p50Ms, p99Ms } = await run(workers, contender, 1, paced);
        const mine = latency.get(contender.name) ?? { p50Ms: [], p99Ms: [] };
        mine.p50Ms.push(p50Ms);
        mine.p99Ms.push(p99Ms);
        latency.set(contender.name, mine);
      }
      const line = [...latency].map(([name, { p50Ms, p99Ms }]) => {
        return `${name} p50 ${p50Ms.at(-1)?.toFixed(1)} p99 ${p99Ms.at(-1)?.toFixed(1)} ms`;
      });
      say(`${half}/s, round ${round + 1} of ${rounds}: ${line.join(', ')}`);
    }

    const further: { name: string; usPerSubscriber: number[] }[] = [];
    for (const contender of contenders) {
      const usPerSubscriber: number[] = [];
      for (let round = 0; round < Math.min(rounds, 3); round++) {
        const points: [number, number][] = [];
        for (const count of SUBSCRIBERS) {
          const paced = { shape: ALARM, window: PACED_WINDOW, durationMs, perSecond: SUBSCRIBED_PER_SECOND };
          const { cpuUs, notified } = await run(workers, contender, count, paced);
          points.push([count, (cpuUs.command ?? 0) / notified.accepted]);
        }
        usPerSubscriber.push(slopeOf(points));
        say(
          `${contender.name}, round ${round + 1}: ${points.map(([n, us]) => `${n} subscribers ${us.toFixed(1)} µs per event`).join(', ')}`,
        );
      }
      further.push({ name: contender.name, usPerSubscriber });
    }

    const pictures = new Map<string, Figures>();
    let edgeRssBytes = 0;
    for (let round = 0; round < rounds; round++) {
      take(pictures, sse, await run(workers, sse, 1, { shape: IMAGE, window: 1, atOnce: IMAGES_AT_ONCE, durationMs }));
      edgeRssBytes = Math.max(edgeRssBytes, rssBytesOf(edge.pid));
      say(
        `700 KB with a picture, round ${round + 1} of ${rounds}: ${pictures.get(sse.name)?.perSecond.at(-1)?.toFixed(0)}/s`,
      );
    }

    const facts = await surroundings(lapi.redis);
    report({ figures, latency, half, further, pictures, edgeRssBytes, say });
    const file = writeResult('event', {
      ...facts,
      settings: { rounds, durationMs, devices: DEVICES, window: WINDOW, subscribers: SUBSCRIBERS, half },
      alarms: Object.fromEntries(figures),
      latency: Object.fromEntries(latency),
      further,
      pictures: Object.fromEntries(pictures),
      edgeRssBytes,
    });
    say(
      `\nWritten to ${file}. Machine: ${facts.cores} × ${facts.cpu}, load ${facts.loadAtStart.toFixed(1)} at the end; commit ${facts.commit}.`,
    );
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

/** Begins and ends at rest. Throws unless every subscriber got what was acknowledged, once. */
async function run(
  { devices, listeners }: Workers,
  { name, system, group, listen }: Contender,
  subscribers: number,
  plan: Omit<NotifyPlan, 'group'>,
): Promise<Round> {
  await listeners.ask('listen', { ...listen, group, count: subscribers });
  const startedMs = performance.now();
  let deliveredMs = 0;
  const { result: notified, cpu } = await cpuDuring(system, async () => {
    const told = await devices.ask('notify', { ...plan, group });
    await waitFor(async () => (await listeners.ask('tally', group)).least >= told.accepted, {
      deadlineMs: DELIVERY_DEADLINE_MS,
      what: `${name}: the delivery of ${told.accepted} events`,
      intervalMs: 5,
    });
    deliveredMs = performance.now();
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    return told;
  });
  const { least, most, ended } = await listeners.ask('tally', group);
  const { p50Ms, p99Ms } = await listeners.ask('latency', group);
  await listeners.ask('leave', group);
  // A notification that was refused because its time was up may be stored all the same.
  if (least < notified.accepted || most > notified.sent || ended > 0)
    throw new Error(
      `${name}: ${notified.accepted} acknowledged of ${notified.sent}, ${least}–${most} delivered, ${ended} cut`,
    );
  return { cpuUs: cpu, notified, elapsedMs: deliveredMs - startedMs, p50Ms, p99Ms };
}

function take(figures: Map<string, Figures>, { name }: Contender, { cpuUs, notified, elapsedMs }: Round): void {
  const { accepted, refused } = notified;
  const mine = figures.get(name) ?? { perSecond: [], usPerEvent: [], byRole: [], refused: [] };
  figures.set(name, mine);
  mine.perSecond.push((accepted / elapsedMs) * 1_000);
  mine.usPerEvent.push(totalOf(cpuUs) / accepted);
  mine.byRole.push(Object.fromEntries(Object.entries(cpuUs).map(([role, us]) => [role, us / accepted])));
  mine.refused.push(refused);
}

interface Findings {
  readonly figures: ReadonlyMap<string, Figures>;
  readonly latency: ReadonlyMap<string, { readonly p50Ms: number[]; readonly p99Ms: number[] }>;
  readonly half: number;
  readonly further: readonly { readonly name: string; readonly usPerSubscriber: number[] }[];
  readonly pictures: ReadonlyMap<string, Figures>;
  readonly edgeRssBytes: number;
  readonly say: (line: string) => void;
}

function report({ figures, latency, half, further, pictures, edgeRssBytes, say }: Findings): void {
  const rows: string[][] = [];
  const add = (setting: string, found: ReadonlyMap<string, Figures>): void => {
    for (const [name, { perSecond, usPerEvent, byRole }] of found) {
      const role = (key: string): string => shown(spreadOf(byRole.map((each) => each[key] ?? 0)));
      const all = [shown(spreadOf(perSecond), 0), shown(spreadOf(usPerEvent)), role('edge'), role('command')];
      rows.push([`${name}, ${setting}`, ...all, role('redis')]);
    }
  };
  add('400 B', figures);
  add('700 KB', pictures);
  say('\nStored and delivered to one subscriber, as fast as answers come; CPU per event in µs: median (min–max)\n');
  say(tableOf(['system, event', 'per second', 'all', 'edge', 'command', 'Redis'], rows));
  say(`\nFrom the device to the subscriber at ${half}/s, ms\n`);
  say(
    tableOf(
      ['system', 'p50', 'p99'],
      [...latency].map(([name, { p50Ms, p99Ms }]) => [name, shown(spreadOf(p50Ms)), shown(spreadOf(p99Ms))]),
    ),
  );
  say(`\nCPU of the command process for each further subscriber, µs per event (${SUBSCRIBED_PER_SECOND}/s)\n`);
  say(
    tableOf(
      ['system', 'µs'],
      further.map(({ name, usPerSubscriber }) => [name, shown(spreadOf(usPerSubscriber), 2)]),
    ),
  );
  const refused = [...figures, ...pictures].flatMap(([, each]) => each.refused);
  say(`\nNotifications that were refused: ${refused.reduce((sum, count) => sum + count, 0)}.`);
  say(`The edge held ${(edgeRssBytes / 2 ** 20).toFixed(0)} MiB at most after rounds of events with pictures.`);
  const ours = figures.get('ours, SSE');
  const images = pictures.get('ours, SSE');
  if (ours === undefined || images === undefined) return;
  const median = (values: readonly number[] | undefined): number => spreadOf(values ?? []).median;
  const goals: Goal[] = [
    { name: 'P7 events of 400 B', measured: median(ours.perSecond), limit: 8_000, sense: 'at least', unit: '/s' },
    {
      name: 'P7 p99 at half',
      measured: median(latency.get('ours, SSE')?.p99Ms),
      limit: 100,
      sense: 'at most',
      unit: ' ms',
    },
    {
      name: 'P7 a further subscriber',
      measured: median(further[0]?.usPerSubscriber),
      limit: 3,
      sense: 'at most',
      unit: ' µs',
    },
    { name: 'P7 events of 700 KB', measured: median(images.perSecond), limit: 150, sense: 'at least', unit: '/s' },
  ];
  say(`\n${goalTable(goals)}`);
}
