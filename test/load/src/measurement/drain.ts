/** `load -- drain`: what leaving and dying costs (goals R3, R4). Devices behind HAProxy on two edges, called directly and by queued commands all
 *  the time. One edge gets SIGTERM, comes back, then the other one: a rolling restart. Then one is killed, and then Redis goes away for
 *  longer than a lease. Every call and every command is accounted for. */

import { setTimeout as pause } from 'node:timers/promises';
import { type Balancer, missingBalancer, startBalancer } from '@lapi-broker/fixture';
import { percentile } from '../measure/spread.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, tableOf } from '../report/table.ts';
import type { CallerVerbs, CallTally } from '../simulate/caller-main.ts';
import type { DevicesVerbs, ReturnTally } from '../simulate/devices-main.ts';
import { type QueuedTally, QueuedTraffic } from '../simulate/queued-traffic.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';

export interface DrainOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

const BALANCERS = 2;
const SITES = 500;
const ANSWER_BYTES = 200;
const RETURN_MS = 500;
const CALLS_PER_SECOND = 200;
const QUEUED_PER_SECOND = 50;
const CONNECT_MS = 10_000;
const URL = '/LAPI/V1.0/System/DeviceInfo';
const LOOK_MS = 20;
const GROUP = 'fleet';
/** They do not come back. */
const GONE = 'gone';
const GONE_DEVICES = 50;
/** Of the devices that register again, this part is called at once. */
const SAMPLED = 20;
const AWAY_MS = 15_000;
const REDIS_SAMPLE = 200;
const DEADLINE_MS = 120_000;

interface Step {
  readonly what: string;
  readonly tookMs: number;
  readonly returns: ReturnTally;
  readonly calls: CallTally;
  readonly queued: QueuedTally;
}

interface Distribution {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly mostMs: number;
}

/** Ms since the device was there. */
interface Reached {
  /** When the call left that was answered at last. */
  readonly askedMs: number;
  readonly answeredMs: number;
}

interface Death {
  readonly returns: ReturnTally;
  /** From the 101 at the other edge to the first call that was not refused, ms. */
  readonly routable: Distribution;
  /** To its answer. A device is sent nothing in its first two seconds (protocol C2). */
  readonly answered: Distribution;
  /** From the death to the last of the devices that did not come back being shown offline. */
  readonly offlineMs: number;
}

interface Outage {
  readonly awayMs: number;
  /** From the first answer of Redis to a call answered by each device of the sample. */
  readonly workingMs: number;
  readonly lost: number;
}

interface Ground {
  readonly system: LapiSystem;
  readonly fleet: Worker<DevicesVerbs>;
  readonly caller: Worker<CallerVerbs>;
  readonly codes: readonly string[];
  readonly drainSeconds: number;
  readonly say: (line: string) => void;
}

/** Answers whether it could be measured. */
export async function measureDrain({ quick, say }: DrainOptions): Promise<boolean> {
  const missing = missingBalancer();
  if (missing !== undefined) {
    say(missing);
    return false;
  }
  const count = quick ? 1_000 : 10_000;
  const drainSeconds = quick ? 20 : 60;
  const stops: (() => Promise<void>)[] = [];
  try {
    const fleet = new Worker<DevicesVerbs>('simulate/devices-main');
    const caller = new Worker<CallerVerbs>('simulate/caller-main');
    stops.push(
      () => fleet.stop(),
      () => caller.stop(),
    );
    say('Starting the system …');
    const system = await LapiSystem.start({
      edges: 2,
      commands: 1,
      subscriptions: true,
      edgeEnv: {
        LAPI_TRUSTED_PROXIES: '127.0.0.1',
        LAPI_DRAIN_SECONDS: String(drainSeconds),
        LAPI_DRAIN_DELAY_SECONDS: '5',
        LAPI_REBALANCE: 'off',
      },
    });
    stops.push(() => system.stop());
    const balancers: Balancer[] = [];
    for (let i = 0; i < BALANCERS; i++) {
      const balancer = await startBalancer({ edges: system.edges });
      balancers.push(balancer);
      stops.push(() => balancer.stop());
    }
    say(`Provisioning ${count + GONE_DEVICES} devices …`);
    const devices = await system.provision(count, 'DRAIN');
    const gone = await system.provision(GONE_DEVICES, 'GONE');
    const plan = { dialect: 'lapi', answerBytes: ANSWER_BYTES, retry: true, atOnce: 256 } as const;
    await fleet.ask('enter', {
      ...plan,
      group: GROUP,
      ports: balancers.map(({ port }) => port),
      devices,
      sites: SITES,
    });
    // Subscriptions begin two seconds after the registration.
    await pause(5_000);
    const facts = await surroundings(system.redis);
    const ground: Ground = { system, fleet, caller, codes: devices.map(({ code }) => code), drainSeconds, say };

    const steps = [
      await drainOne(ground, 0, 'one of two edges'),
      await drainOne(ground, 1, 'the other one, which has all devices by then'),
    ];
    await fleet.ask('enter', { ...plan, group: GONE, ports: [portOf(system, 0)], devices: gone });
    // So that the edge that dies has half of the devices again, as after some hours.
    await spread(ground, balancers);
    const death = await killOne(
      ground,
      gone.map(({ code }) => code),
    );
    await system.restartEdge(0);
    const outage = await withoutRedis(ground);

    report(steps, death, outage, count, say);
    const file = writeResult('drain', {
      ...facts,
      settings: {
        devices: count,
        drainSeconds,
        callsPerSecond: CALLS_PER_SECOND,
        queuedPerSecond: QUEUED_PER_SECOND,
        connectTimeoutMs: CONNECT_MS,
        returnMs: RETURN_MS,
        sites: SITES,
      },
      steps,
      death,
      outage,
    });
    say(
      `\nWritten to ${file}. Load of the machine at the start: ${facts.loadAtStart.toFixed(1)}; commit ${facts.commit}.`,
    );
    return true;
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

function portOf(system: LapiSystem, index: number): number {
  const edge = system.edges[index];
  if (edge === undefined) throw new RangeError(`no edge ${index}`);
  return edge.port;
}

/** Calls and commands from some seconds before SIGTERM to some seconds after everybody is back; then the edge comes back. */
async function drainOne(ground: Ground, index: number, what: string): Promise<Step> {
  const { system, fleet, caller, codes, drainSeconds, say } = ground;
  const edge = system.edges[index];
  if (edge === undefined) throw new RangeError(`no edge ${index}`);
  say(`Draining ${what} …`);
  await fleet.ask('returnWhenLost', { group: GROUP, withinMs: RETURN_MS });
  const queued = new QueuedTraffic({ port: system.apiPort, apiKey: system.apiKey, codes, url: URL });
  const durationMs = (drainSeconds + 10) * 1_000;
  const calling = caller.ask('pace', {
    port: system.apiPort,
    headers: `${system.headers}X-LAPI-Connect-Timeout: ${CONNECT_MS}\r\n`,
    codes,
    path: URL,
    leastBytes: ANSWER_BYTES - 20,
    connections: 512,
    durationMs,
    perSecond: CALLS_PER_SECOND,
    lastAnswersMs: CONNECT_MS + 15_000,
  });
  queued.start(QUEUED_PER_SECOND);
  await pause(3_000);
  const startedMs = performance.now();
  edge.running.signal('SIGTERM');
  const { code } = await edge.running.exited;
  const tookMs = performance.now() - startedMs;
  if (code !== 0) throw new Error(`the drained edge ended with ${code}`);
  const returns = await everybodyBack(fleet);
  const [calls, ends] = await Promise.all([calling, queued.stop()]);
  await system.restartEdge(index);
  return { what, tookMs, returns, calls, queued: ends };
}

async function everybodyBack(fleet: Worker<DevicesVerbs>): Promise<ReturnTally> {
  const endMs = performance.now() + DEADLINE_MS;
  for (;;) {
    const tally = await fleet.ask('returns', GROUP);
    if (tally.away === 0) return tally;
    if (performance.now() > endMs) throw new Error(`not all came back: ${JSON.stringify(tally)}`);
    await pause(LOOK_MS);
  }
}

/** A restart of a balancer cuts its devices, which it then spreads evenly. */
async function spread({ fleet, say }: Ground, balancers: readonly Balancer[]): Promise<void> {
  say('Restarting the balancers, so that both edges have devices again …');
  for (const balancer of balancers) {
    await fleet.ask('returnWhenLost', { group: GROUP, withinMs: 5_000 });
    await balancer.restart();
    await pause(1_000);
    await everybodyBack(fleet);
  }
  await pause(4_000);
}

async function call({ system }: Ground, code: string): Promise<boolean> {
  const answer = await fetch(`http://127.0.0.1:${system.apiPort}/v1/devices/${code}${URL}`, {
    headers: { authorization: `Bearer ${system.apiKey}` },
  });
  await answer.arrayBuffer();
  return answer.status === 200;
}

/** Calls the device until it answers. */
async function reach(ground: Ground, code: string, sinceMs: number): Promise<Reached> {
  for (const endMs = Date.now() + DEADLINE_MS; ; await pause(LOOK_MS)) {
    const askedMs = Date.now() - sinceMs;
    if (await call(ground, code)) return { askedMs, answeredMs: Date.now() - sinceMs };
    if (Date.now() > endMs) throw new Error(`${code} cannot be called`);
  }
}

function distributionOf(values: readonly number[]): Distribution {
  const sorted = Float64Array.from(values).sort();
  return {
    count: sorted.length,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
    mostMs: percentile(sorted, 1),
  };
}

async function killOne(ground: Ground, gone: readonly string[]): Promise<Death> {
  const { system, fleet, say } = ground;
  say('Killing one edge …');
  await fleet.ask('returnWhenLost', { group: GROUP, withinMs: RETURN_MS });
  const edge = system.edges[0];
  if (edge === undefined) throw new RangeError('no edge');
  const killedMs = Date.now();
  await edge.running.kill();
  const offline = untilOffline(ground, gone, killedMs);
  const reaching: Promise<Reached>[] = [];
  let seen = 0;
  for (const endMs = Date.now() + DEADLINE_MS; ; ) {
    for (const { code, atMs } of await fleet.ask('returnedSince', GROUP)) {
      if (seen++ % SAMPLED === 0) reaching.push(reach(ground, code, atMs));
    }
    if (seen > 0 && (await fleet.ask('returns', GROUP)).away === 0) break;
    if (Date.now() > endMs) throw new Error('not all came back after the death of their edge');
    await pause(LOOK_MS);
  }
  const reached = await Promise.all(reaching);
  return {
    returns: await fleet.ask('returns', GROUP),
    routable: distributionOf(reached.map(({ askedMs }) => askedMs)),
    answered: distributionOf(reached.map(({ answeredMs }) => answeredMs)),
    offlineMs: await offline,
  };
}

async function untilOffline({ system }: Ground, codes: readonly string[], sinceMs: number): Promise<number> {
  const online = new Set(codes);
  while (online.size > 0) {
    for (const code of online) {
      const answer = await fetch(`http://127.0.0.1:${system.apiPort}/v1/devices/${code}`, {
        headers: { authorization: `Bearer ${system.apiKey}` },
      });
      const row = (await answer.json()) as { online?: boolean };
      if (row.online === false) online.delete(code);
    }
    if (Date.now() - sinceMs > DEADLINE_MS) throw new Error(`${online.size} devices of a dead node are shown online`);
    await pause(LOOK_MS);
  }
  return Date.now() - sinceMs;
}

async function withoutRedis(ground: Ground): Promise<Outage> {
  const { system, fleet, codes, say } = ground;
  say(`Redis away for ${AWAY_MS / 1_000} s …`);
  await pause(3_000);
  const before = (await fleet.ask('counts', GROUP)).lost;
  const goneMs = Date.now();
  await system.redis.kill('SIGKILL');
  await pause(AWAY_MS);
  await system.redis.restart();
  const backMs = Date.now();
  const step = Math.max(1, Math.floor(codes.length / REDIS_SAMPLE));
  const sample = codes.filter((_, i) => i % step === 0);
  const working = await Promise.all(sample.map((code) => reach(ground, code, backMs)));
  return {
    awayMs: backMs - goneMs,
    workingMs: Math.max(...working.map(({ answeredMs }) => answeredMs)),
    lost: (await fleet.ask('counts', GROUP)).lost - before,
  };
}

function report(
  steps: readonly Step[],
  death: Death,
  outage: Outage,
  count: number,
  say: (line: string) => void,
): void {
  const seconds = (ms: number): string => (ms / 1_000).toFixed(1);
  const listed = (counts: Readonly<Record<string, number>>): string =>
    Object.entries(counts)
      .map(([what, times]) => `${times} × ${what}`)
      .join(', ') || '0';
  say(`\n${count} devices; seconds\n`);
  say(
    tableOf(
      ['drained', 'devices', 'took', 'away p50', 'p99', 'most', 'refused', 'calls', 'failed', 'most', 'queued', 'ends'],
      steps.map(({ what, tookMs, returns, calls, queued }) => [
        what,
        String(returns.returned),
        seconds(tookMs),
        seconds(returns.p50Ms),
        seconds(returns.p99Ms),
        seconds(returns.mostMs),
        listed(returns.refusals),
        String(calls.answered),
        listed(calls.failures),
        seconds(calls.mostMs),
        String(queued.accepted),
        listed(queued.ends),
      ]),
    ),
  );
  say(
    `\nAn edge killed: ${death.returns.returned} devices away for ${seconds(death.returns.p50Ms)} s (p50), ${seconds(death.returns.p99Ms)} s (p99); ` +
      `${death.routable.count} of them called as soon as they were back: no call refused after ${death.routable.p50Ms} ms (p50), ${death.routable.p99Ms} ms (p99), ${death.routable.mostMs} ms (most), ` +
      `answered after ${death.answered.p50Ms} ms (p50), ${death.answered.p99Ms} ms (p99), of which 2,000 are the pause that a new device gets; ` +
      `those that did not come back shown offline after ${seconds(death.offlineMs)} s.`,
  );
  say(
    `Redis away for ${seconds(outage.awayMs)} s: calls to all ${REDIS_SAMPLE} devices of a sample answered ${seconds(outage.workingMs)} s after it was back; ${outage.lost} devices lost their connection.`,
  );
  const [first] = steps;
  if (first === undefined) throw new RangeError('no drain');
  const goals: Goal[] = [
    ...steps.flatMap(({ what, calls, queued }, i): Goal[] => [
      {
        name: `R3 lost, ${what}`,
        measured: calls.failed + calls.unanswered + calls.notMade + queued.refused + lostOf(queued),
        limit: 0,
        sense: 'at most',
        unit: '',
      },
      {
        name: `R3 unknown, drain ${i + 1}`,
        measured: (queued.ends.unknown ?? 0) + (queued.ends.timed_out ?? 0),
        limit: 0,
        sense: 'at most',
        unit: '',
      },
    ]),
    { name: 'R3 device away, p99', measured: first.returns.p99Ms / 1_000, limit: 5, sense: 'at most', unit: ' s' },
    {
      name: 'R4 routable after it registered, p99',
      measured: death.routable.p99Ms / 1_000,
      limit: 1,
      sense: 'at most',
      unit: ' s',
    },
    { name: 'R4 shown offline', measured: death.offlineMs / 1_000, limit: 12, sense: 'at most', unit: ' s' },
    { name: 'R4 Redis back to working', measured: outage.workingMs / 1_000, limit: 5, sense: 'at most', unit: ' s' },
    { name: 'R4 devices that reconnected for it', measured: outage.lost, limit: 0, sense: 'at most', unit: '' },
  ];
  say(`\n${goalTable(goals)}`);
}

function lostOf({ accepted, ends }: QueuedTally): number {
  return accepted - (ends.succeeded ?? 0) - (ends.unknown ?? 0) - (ends.timed_out ?? 0);
}
