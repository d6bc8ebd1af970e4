/** `load -- idle`: what devices cost that only stay connected (goals P4 and P5): memory of the edge, memory, commands and CPU of Redis, CPU of
 *  the edge. One edge is filled in steps and rests at each; keepalives every 60 s, as shipped. Figures per device are slopes over the steps,
 *  so what a process needs without devices does not count. */

import { setTimeout as pause } from 'node:timers/promises';
import { cpuUsOf, redisUsage, rssBytesOf } from '../measure/process-usage.ts';
import { slopeOf } from '../measure/spread.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, tableOf } from '../report/table.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import { LapiSystem, type ServiceProcess } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';

export interface IdleOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

const KEEPALIVE_MS = 60_000;
/** Nonces are remembered for 10 s beyond this, and must be gone before the memory of Redis is read. */
const NONCE_TTL_S = 30;
const NONCES_GONE_MS = 42_000;
const GROUP = 'idle';

/** What was seen at rest with this many devices. */
interface Step {
  readonly devices: number;
  readonly edgeRssBytes: number;
  readonly edgeHeapBytes: number;
  readonly edgeCpuUsPerS: number;
  readonly redisBytes: number;
  readonly redisStreamBytes: number;
  readonly redisCommandsPerS: number;
  readonly redisCpuUsPerS: number;
}

export async function measureIdle({ quick, say }: IdleOptions): Promise<void> {
  const steps = quick ? [500, 1_000, 2_000] : [1_000, 5_000, 10_000, 15_000];
  const windowMs = quick ? 10_000 : 60_000;
  const restMs = quick ? 5_000 : 20_000;
  const most = steps.at(-1) ?? 0;
  const stops: (() => Promise<void>)[] = [];
  try {
    const deviceWorker = new Worker<DevicesVerbs>('simulate/devices-main');
    stops.push(() => deviceWorker.stop());
    const system = await LapiSystem.start({
      edges: 1,
      commands: 1,
      subscriptions: true,
      edgeEnv: { LAPI_REGISTRATIONS_PER_SECOND: '1000000', LAPI_NONCE_TTL_SECONDS: String(NONCE_TTL_S) },
    });
    stops.push(() => system.stop());
    const [edge] = system.edges;
    if (edge === undefined) throw new RangeError('no edge');
    say(`Provisioning ${most} devices …`);
    const devices = await system.provision(most, 'IDLE');
    const enter = async (from: number, to: number): Promise<void> => {
      const tally = await deviceWorker.ask('enter', {
        group: GROUP,
        dialect: 'lapi',
        ports: [edge.port],
        devices: devices.slice(from, to),
        answerBytes: 200,
        atOnce: 64,
        retry: true,
      });
      if (tally.entered !== to - from) throw new Error(`only ${tally.entered} of ${to - from} came in`);
    };
    say('Warming up …');
    await enter(0, Math.min(500, most));
    await deviceWorker.ask('forget', GROUP);
    // All samples in one place: the process has done everything once before the first one.
    await pause(restMs);

    const seen: Step[] = [await look(system, edge, 0, windowMs)];
    for (const [i, count] of steps.entries()) {
      await enter(steps[i - 1] ?? 0, count);
      await deviceWorker.ask('keepaliveEvery', { group: GROUP, intervalMs: KEEPALIVE_MS });
      await pause(quick ? restMs : Math.max(restMs, NONCES_GONE_MS));
      const step = await look(system, edge, count, windowMs);
      seen.push(step);
      say(
        `${count} devices: ${mebi(step.edgeRssBytes)} MiB in the edge, ${step.redisCommandsPerS.toFixed(1)} Redis commands/s`,
      );
    }
    const keepalive = await keepaliveCost(system, deviceWorker, most);
    const { in: stayed, lost } = await deviceWorker.ask('counts', GROUP);
    if (stayed !== most || lost > 0) throw new Error(`${stayed} of ${most} devices stayed, ${lost} were lost`);

    const facts = await surroundings(system.redis);
    const perDevice = {
      edgeRssBytes: slopeOf(seen.slice(1).map((step) => [step.devices, step.edgeRssBytes])),
      edgeHeapBytes: slopeOf(seen.slice(1).map((step) => [step.devices, step.edgeHeapBytes])),
      edgeCpuUsPerS: slopeOf(seen.map((step) => [step.devices, step.edgeCpuUsPerS])),
      redisBytes: slopeOf(seen.map((step) => [step.devices, step.redisBytes - step.redisStreamBytes])),
      redisCommandsPerS: slopeOf(seen.map((step) => [step.devices, step.redisCommandsPerS])),
    };
    report(seen, perDevice, keepalive, say);
    const file = writeResult('idle', {
      ...facts,
      settings: { steps, windowMs, restMs, keepaliveMs: KEEPALIVE_MS },
      seen,
      perDevice,
      keepalive,
    });
    say(
      `\nWritten to ${file}. Machine: ${facts.cores} × ${facts.cpu}, load ${facts.loadAtStart.toFixed(1)}; commit ${facts.commit}.`,
    );
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

async function look(system: LapiSystem, edge: ServiceProcess, devices: number, windowMs: number): Promise<Step> {
  const startedMs = performance.now();
  const before = { redis: await redisUsage(system.redis), edgeUs: cpuUsOf(edge.pid) };
  await pause(windowMs);
  const after = { redis: await redisUsage(system.redis), edgeUs: cpuUsOf(edge.pid) };
  const seconds = (performance.now() - startedMs) / 1_000;
  return {
    devices,
    edgeRssBytes: rssBytesOf(edge.pid),
    edgeHeapBytes: await system.metric(edge, 'nodejs_heap_size_used_bytes'),
    edgeCpuUsPerS: (after.edgeUs - before.edgeUs) / seconds,
    redisBytes: after.redis.dataBytes,
    redisStreamBytes: await streamBytes(system),
    redisCommandsPerS: (after.redis.commands - before.redis.commands) / seconds,
    redisCpuUsPerS: (after.redis.cpuUs - before.redis.cpuUs) / seconds,
  };
}

/** Presence entries: bounded by the length of the streams, not by the number of devices. */
async function streamBytes({ redis }: LapiSystem): Promise<number> {
  const keys = (await redis.command('KEYS', '*:events')) as string[];
  const sizes = await Promise.all(keys.map((key) => redis.command('MEMORY', 'USAGE', key, 'SAMPLES', 0)));
  return sizes.reduce<number>((sum, size) => sum + Number(size), 0);
}

interface KeepaliveCost {
  readonly keepalives: number;
  /** Beyond those of an equally long time without. */
  readonly redisCommands: number;
  readonly edgeUsEach: number;
}

/** One keepalive of every device at once, beside an equally long time without any. */
async function keepaliveCost(
  system: LapiSystem,
  deviceWorker: Worker<DevicesVerbs>,
  devices: number,
): Promise<KeepaliveCost> {
  const [edge] = system.edges;
  if (edge === undefined) throw new RangeError('no edge');
  await deviceWorker.ask('keepaliveEvery', { group: GROUP, intervalMs: 3_600_000 });
  const usage = async (): Promise<{ commands: number; edgeUs: number }> => ({
    commands: (await redisUsage(system.redis)).commands,
    edgeUs: cpuUsOf(edge.pid),
  });
  const start = await usage();
  const startedMs = performance.now();
  let keepalives = 0;
  for (let i = 0; i < 10; i++) keepalives += await deviceWorker.ask('keepaliveOnce', GROUP);
  const tookMs = performance.now() - startedMs;
  const middle = await usage();
  await pause(tookMs);
  const end = await usage();
  if (keepalives !== devices * 10) throw new Error(`${keepalives} of ${devices * 10} keepalives were answered`);
  return {
    keepalives,
    redisCommands: middle.commands - start.commands - (end.commands - middle.commands),
    edgeUsEach: (middle.edgeUs - start.edgeUs - (end.edgeUs - middle.edgeUs)) / keepalives,
  };
}

function mebi(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}

interface PerDevice {
  readonly edgeRssBytes: number;
  readonly edgeHeapBytes: number;
  readonly edgeCpuUsPerS: number;
  readonly redisBytes: number;
  readonly redisCommandsPerS: number;
}

function report(
  seen: readonly Step[],
  perDevice: PerDevice,
  keepalive: KeepaliveCost,
  say: (line: string) => void,
): void {
  say('');
  say(
    tableOf(
      [
        'devices',
        'edge RSS MiB',
        'its heap MiB',
        'edge CPU ms/s',
        'Redis MiB',
        'of it streams',
        'Redis commands/s',
        'Redis CPU ms/s',
      ],
      seen.map((step) => [
        String(step.devices),
        mebi(step.edgeRssBytes),
        mebi(step.edgeHeapBytes),
        (step.edgeCpuUsPerS / 1_000).toFixed(2),
        mebi(step.redisBytes),
        mebi(step.redisStreamBytes),
        step.redisCommandsPerS.toFixed(1),
        (step.redisCpuUsPerS / 1_000).toFixed(2),
      ]),
    ),
  );
  say(
    `\nOne keepalive costs the edge ${keepalive.edgeUsEach.toFixed(1)} µs. Slope of the heap: ${(perDevice.edgeHeapBytes / 1_024).toFixed(2)} KiB per device.`,
  );
  const goals: Goal[] = [
    {
      name: 'P4 memory of the edge per device',
      measured: perDevice.edgeRssBytes / 1_024,
      limit: 2,
      sense: 'at most',
      unit: ' KiB',
    },
    {
      name: 'P4 memory of Redis per device, session',
      measured: perDevice.redisBytes,
      limit: 400,
      sense: 'at most',
      unit: ' B',
    },
    {
      name: 'P5 Redis commands per keepalive',
      measured: Math.max(0, keepalive.redisCommands) / keepalive.keepalives,
      limit: 0.001,
      sense: 'at most',
      unit: '',
    },
    {
      name: 'P5 Redis commands per s for 1,000 devices more',
      measured: perDevice.redisCommandsPerS * 1_000,
      limit: 0.5,
      sense: 'at most',
      unit: '',
    },
    {
      name: 'P5 CPU of the edge per device',
      measured: perDevice.edgeCpuUsPerS,
      limit: 6,
      sense: 'at most',
      unit: ' µs/s',
    },
  ];
  say(`\n${goalTable(goals)}`);
}
