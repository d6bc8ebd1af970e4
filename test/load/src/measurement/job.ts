/** `load -- job`: a job over thousands of devices. How long it takes to make one, how many devices it serves per second and what that costs, how
 *  soon a pause holds, and whether every device got its command once. One edge, one command service, devices that answer at once. */

import { setTimeout as pause } from 'node:timers/promises';
import { cpuUsOf, redisUsage } from '../measure/process-usage.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable } from '../report/table.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';

export interface JobOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

const GROUP = 'job';
const CONCURRENCY = 500;
const POLL_MS = 20;
const DEADLINE_MS = 300_000;

type Json = Record<string, unknown>;

export async function measureJob({ quick, say }: JobOptions): Promise<void> {
  const connected = quick ? 500 : 5_000;
  const most = quick ? 1_000 : 10_000;
  const stops: (() => Promise<void>)[] = [];
  try {
    const worker = new Worker<DevicesVerbs>('simulate/devices-main');
    stops.push(() => worker.stop());
    const system = await LapiSystem.start({
      edges: 1,
      commands: 1,
      subscriptions: false,
      edgeEnv: { LAPI_REGISTRATIONS_PER_SECOND: '1000000' },
    });
    stops.push(() => system.stop());
    const [edge] = system.edges;
    const [command] = system.commands;
    if (edge === undefined || command === undefined) throw new RangeError('no edge or no command service');
    const api = async (path: string, body?: Json): Promise<Json> => {
      const answer = await fetch(`http://127.0.0.1:${system.apiPort}${path}`, {
        method: body === undefined ? 'GET' : 'POST',
        headers: { authorization: `Bearer ${system.apiKey}`, 'content-type': 'application/json' },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const text = await answer.text();
      if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`);
      return JSON.parse(text) as Json;
    };
    const received = async (): Promise<number> => (await worker.ask('counts', GROUP)).called;
    const until = async (condition: () => Promise<boolean>, what: string): Promise<void> => {
      const endMs = performance.now() + DEADLINE_MS;
      while (!(await condition())) {
        if (performance.now() > endMs) throw new Error(`${what} did not come within ${DEADLINE_MS} ms`);
        await pause(POLL_MS);
      }
    };
    const order = (codes: readonly string[]): Json => ({
      command: { method: 'PUT', url: '/LAPI/V1.0/System/Time', data: { TimeZone: 'GMT+01:00' } },
      targets: { codes },
      concurrency: CONCURRENCY,
    });

    say(`Provisioning ${most} devices, ${connected} of them come in …`);
    const devices = await system.provision(most, 'JOB');
    const entry = {
      group: GROUP,
      dialect: 'lapi',
      ports: [edge.port],
      answerBytes: 200,
      atOnce: 64,
      retry: true,
    } as const;
    const tally = await worker.ask('enter', { ...entry, devices: devices.slice(0, connected) });
    if (tally.entered !== connected) throw new Error(`only ${tally.entered} of ${connected} came in`);
    const codes = devices.map(({ code }) => code);

    const createMs: number[] = [];
    for (let round = 0; round < 3; round++) {
      const startedMs = performance.now();
      const { id } = await api('/v1/jobs', {
        ...order(codes),
        window: { notBefore: new Date(Date.now() + 3_600_000).toISOString() },
      });
      createMs.push(performance.now() - startedMs);
      await api(`/v1/jobs/${String(id)}/cancel`, {});
      await until(
        async () => (await api(`/v1/jobs/${String(id)}`)).state === 'cancelled',
        'the end of a cancelled job',
      );
    }
    const creationMs = Math.max(...createMs);
    say(`Made a job of ${most} devices in ${createMs.map((ms) => ms.toFixed(0)).join(', ')} ms`);

    const before = {
      redis: await redisUsage(system.redis),
      edgeUs: cpuUsOf(edge.pid),
      commandUs: cpuUsOf(command.pid),
    };
    const startedMs = performance.now();
    const { id } = await api('/v1/jobs', order(codes.slice(0, connected)));
    const path = `/v1/jobs/${String(id)}`;
    await until(async () => (await api(path)).state === 'succeeded', 'the end of the job');
    const tookS = (performance.now() - startedMs) / 1_000;
    const after = { redis: await redisUsage(system.redis), edgeUs: cpuUsOf(edge.pid), commandUs: cpuUsOf(command.pid) };
    const got = await received();
    if (got !== connected) throw new Error(`${connected} devices received ${got} commands`);
    const perDevice = {
      commandUs: (after.commandUs - before.commandUs) / connected,
      edgeUs: (after.edgeUs - before.edgeUs) / connected,
      redisUs: (after.redis.cpuUs - before.redis.cpuUs) / connected,
    };
    say(`${connected} devices in ${tookS.toFixed(1)} s, each once`);

    const paused = await api('/v1/jobs', order(codes.slice(0, connected)));
    const pausedPath = `/v1/jobs/${String(paused.id)}`;
    await until(async () => (await received()) >= connected * 1.2, 'a part of the second job');
    const askedMs = performance.now();
    await api(`${pausedPath}/pause`, {});
    const answeredMs = performance.now() - askedMs;
    let last = { count: -1, atMs: askedMs };
    await until(async () => {
      const count = await received();
      const nowMs = performance.now();
      if (count !== last.count) last = { count, atMs: nowMs };
      return nowMs - last.atMs > 1_500;
    }, 'silence');
    const heldMs = last.atMs - askedMs;
    const sentWhenPaused = last.count - connected;
    say(
      `Paused after ${sentWhenPaused} devices: answered in ${answeredMs.toFixed(0)} ms, last command after ${heldMs.toFixed(0)} ms`,
    );
    await api(`${pausedPath}/resume`, {});
    await until(async () => (await api(pausedPath)).state === 'succeeded', 'the end of the second job');
    const total = await received();
    if (total !== 2 * connected)
      throw new Error(`${connected} devices received ${total - connected} commands of the second job`);

    const facts = await surroundings(system.redis);
    const goals: Goal[] = [
      { name: `making a job of ${most} devices`, measured: creationMs, limit: 2_000, sense: 'at most', unit: ' ms' },
      { name: 'last command after a pause', measured: heldMs, limit: 1_000, sense: 'at most', unit: ' ms' },
    ];
    say(`\n${goalTable(goals)}`);
    say(
      `\n${(connected / tookS).toFixed(0)} devices/s at concurrency ${CONCURRENCY}; CPU per device: command service ${perDevice.commandUs.toFixed(0)} µs, edge ${perDevice.edgeUs.toFixed(0)} µs, Redis ${perDevice.redisUs.toFixed(0)} µs.`,
    );
    const file = writeResult('job', {
      ...facts,
      settings: { connected, most, concurrency: CONCURRENCY },
      createMs,
      job: { tookS, devicesPerSecond: connected / tookS, perDevice },
      pause: { answeredMs, heldMs, sentWhenPaused },
    });
    say(
      `\nWritten to ${file}. Machine: ${facts.cores} × ${facts.cpu}, load ${facts.loadAtStart.toFixed(1)}; commit ${facts.commit}.`,
    );
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}
