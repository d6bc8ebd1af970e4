/** `load -- storm`: a whole fleet is cut off at one moment and comes back at once (goal P3). 10,000 devices behind HAProxy on two edges, as shipped;
 *  both balancers are killed and started again; every device tries again within a quarter of a second, whatever Retry-After says. Beside them
 *  devices that stay connected are called, and the API is asked, at a fixed pace: what they notice is compared with the time before. Then
 *  once more with balancers that let through what the edges admit.
 *  Two balancers only because one process may have 20,000 descriptors here, and a device takes two of them. */

import { setTimeout as pause } from 'node:timers/promises';
import { type Balancer, missingBalancer, startBalancer } from '@lapi-broker/fixture';
import { type CpuByRole, cpuDuring, rssBytesOf } from '../measure/process-usage.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, tableOf } from '../report/table.ts';
import type { CallerVerbs, CallTally } from '../simulate/caller-main.ts';
import type { DevicesVerbs, ReturnTally } from '../simulate/devices-main.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';

export interface StormOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

const EDGES = 2;
const BALANCERS = 2;
const SITES = 500;
const CALM_DEVICES = 400;
const ANSWER_BYTES = 200;
const IMPATIENCE_MS = 250;
/** Of each balancer; together a little less than the edges admit. */
const PACED_PER_SECOND = 450;
const CALLS_PER_SECOND = 200;
const READS_PER_SECOND = 50;
const URL = '/LAPI/V1.0/System/DeviceInfo';
const WATCH_MS = 12_000;
const LOOK_MS = 50;
const DEADLINE_MS = 150_000;

interface Seen {
  readonly calls: CallTally;
  readonly reads: CallTally;
}

interface Storm {
  readonly what: string;
  readonly tally: ReturnTally;
  readonly tookMs: number;
  readonly heldAnswers: number;
  readonly cpuUs: CpuByRole;
  readonly before: Seen;
  readonly during: Seen;
}

/** Answers whether it could be measured. */
export async function measureStorm({ quick, say }: StormOptions): Promise<boolean> {
  const missing = missingBalancer();
  if (missing !== undefined) {
    say(missing);
    return false;
  }
  const count = quick ? 2_000 : 10_000;
  const watchMs = quick ? 4_000 : WATCH_MS;
  const stops: (() => Promise<void>)[] = [];
  try {
    const fleet = new Worker<DevicesVerbs>('simulate/devices-main');
    // In a process of their own, or they would wait for those that come back.
    const others = new Worker<DevicesVerbs>('simulate/devices-main');
    const caller = new Worker<CallerVerbs>('simulate/caller-main');
    stops.push(
      () => fleet.stop(),
      () => others.stop(),
      () => caller.stop(),
    );
    say('Starting the system …');
    const system = await LapiSystem.start({
      edges: EDGES,
      commands: 1,
      subscriptions: true,
      // A device that is moved would look like one that was cut off.
      edgeEnv: { LAPI_TRUSTED_PROXIES: '127.0.0.1', LAPI_REBALANCE: 'off' },
    });
    stops.push(() => system.stop());
    const balancers: Balancer[] = [];
    for (let i = 0; i < BALANCERS; i++) {
      const balancer = await startBalancer({ edges: system.edges });
      balancers.push(balancer);
      stops.push(() => balancer.stop());
    }
    say(`Provisioning ${count + CALM_DEVICES} devices …`);
    const calm = await system.provision(CALM_DEVICES, 'CALM');
    const devices = await system.provision(count, 'STORM');
    const plan = { dialect: 'lapi', answerBytes: ANSWER_BYTES, retry: true } as const;
    await others.ask('enter', {
      ...plan,
      group: 'calm',
      ports: system.edges.map(({ port }) => port),
      devices: calm,
      atOnce: 64,
    });
    await fleet.ask('enter', {
      ...plan,
      group: 'storm',
      ports: balancers.map(({ port }) => port),
      devices,
      atOnce: 256,
      sites: SITES,
    });
    // Subscriptions begin two seconds after the registration.
    await pause(5_000);

    const watch = async (durationMs: number): Promise<Seen> => {
      const call = { port: system.apiPort, headers: system.headers, codes: calm.map(({ code }) => code), durationMs };
      const [calls, reads] = await Promise.all([
        caller.ask('pace', {
          ...call,
          path: URL,
          leastBytes: ANSWER_BYTES - 20,
          connections: 256,
          perSecond: CALLS_PER_SECOND,
        }),
        caller.ask('pace', { ...call, path: '', leastBytes: 100, connections: 64, perSecond: READS_PER_SECOND }),
      ]);
      return { calls, reads };
    };
    say('Watching what is connected …');
    await watch(2_000);
    const facts = await surroundings(system.redis);
    const storm = async (what: string, connectionsPerSecond?: number): Promise<Storm> => {
      const before = await watch(watchMs);
      say(`Cutting ${count} devices off, ${what} …`);
      const held = await heldBy(system);
      await fleet.ask('returnWhenLost', { group: 'storm', withinMs: IMPATIENCE_MS });
      const { result, cpu } = await cpuDuring(system, async () => {
        const startedMs = performance.now();
        const watched = watch(watchMs);
        await Promise.all(balancers.map((balancer) => balancer.restart(connectionsPerSecond)));
        const back = await allBack(fleet, count, startedMs, say);
        return { ...back, during: await watched };
      });
      return { what, before, ...result, cpuUs: cpu, heldAnswers: (await heldBy(system)) - held };
    };
    const storms = [
      await storm('balancers let all through'),
      await storm(`each balancer lets ${PACED_PER_SECOND} per second through`, PACED_PER_SECOND),
    ];
    const { in: stayed, lost } = await others.ask('counts', 'calm');
    if (stayed !== CALM_DEVICES || lost > 0) throw new Error(`${lost} devices lost a connection that nobody cut`);

    report(storms, count, say);
    const file = writeResult('storm', {
      ...facts,
      settings: {
        devices: count,
        edges: EDGES,
        balancers: BALANCERS,
        sites: SITES,
        impatienceMs: IMPATIENCE_MS,
        watchMs,
      },
      storms,
      edgeRssBytes: system.edges.map(({ pid }) => rssBytesOf(pid)),
    });
    say(
      `\nWritten to ${file}. Load of the machine at the start: ${facts.loadAtStart.toFixed(1)}; commit ${facts.commit}.`,
    );
    return true;
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

async function heldBy(system: LapiSystem): Promise<number> {
  const counts = await Promise.all(system.edges.map((edge) => system.metric(edge, 'lapi_register_held_total')));
  return counts.reduce((sum, each) => sum + each, 0);
}

async function allBack(
  fleet: Worker<DevicesVerbs>,
  count: number,
  startedMs: number,
  say: (line: string) => void,
): Promise<{ tally: ReturnTally; tookMs: number }> {
  let toldMs = startedMs;
  for (;;) {
    const tally = await fleet.ask('returns', 'storm');
    const nowMs = performance.now();
    if (tally.returned >= count && tally.away === 0) return { tally, tookMs: nowMs - startedMs };
    if (nowMs - startedMs > DEADLINE_MS) throw new Error(`not all came back: ${JSON.stringify(tally)}`);
    if (nowMs - toldMs > 2_000) {
      toldMs = nowMs;
      say(`  ${Math.round((nowMs - startedMs) / 1_000)} s: ${tally.returned} back, ${tally.away} away`);
    }
    await pause(LOOK_MS);
  }
}

function report(storms: readonly Storm[], count: number, say: (line: string) => void): void {
  const seconds = (ms: number): string => (ms / 1_000).toFixed(1);
  const listed = (counts: Readonly<Record<string, number>>): string =>
    Object.entries(counts)
      .map(([what, times]) => `${times} × ${what}`)
      .join(', ') || '0';
  for (const { what, tookMs, tally, heldAnswers } of storms) {
    say(
      `\n${count} devices back after ${seconds(tookMs)} s, ${what}: each away for ${seconds(tally.p50Ms)} s (p50), ${seconds(tally.p99Ms)} s (p99), ${seconds(tally.mostMs)} s (most); ` +
        `refused ${listed(tally.refusals)}, one device at most ${tally.mostRefusals} times; failed connections ${listed(tally.failures)}; ${heldAnswers} answers held back.`,
    );
  }
  const row = (when: string, { calls, reads }: Seen): string[] => [
    when,
    calls.p50Ms.toFixed(1),
    calls.p99Ms.toFixed(0),
    calls.mostMs.toFixed(0),
    reads.p50Ms.toFixed(1),
    reads.p99Ms.toFixed(0),
    String(calls.answered + reads.answered),
    String(notAnswered(calls) + notAnswered(reads)),
  ];
  say('');
  say(
    tableOf(
      ['devices that stayed, ms', 'call p50', 'p99', 'most', 'API read p50', 'p99', 'answered', 'not answered'],
      storms.flatMap(({ what, before, during }) => [row('before', before), row(what, during)]),
    ),
  );
  const goals = storms.flatMap(({ what, tookMs, during }): Goal[] => [
    {
      name: `P3 ${count} impatient devices cut off and back, ${what}`,
      measured: tookMs / 1_000,
      limit: 20,
      sense: 'at most',
      unit: ' s',
    },
    {
      name: 'calls and reads beside it that were not answered',
      measured: notAnswered(during.calls) + notAnswered(during.reads),
      limit: 0,
      sense: 'at most',
      unit: '',
    },
  ]);
  say(`\n${goalTable(goals)}`);
}

function notAnswered({ failed, unanswered, notMade }: CallTally): number {
  return failed + unanswered + notMade;
}
