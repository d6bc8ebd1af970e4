/** `load -- event --overload`: whether memory stays bounded while devices send more than can be stored, for minutes. Redis stands still for one
 *  second in three; small alarms and large ones come faster than the rest of the time can take; one subscriber listens, some have stopped to
 *  read. Resident memory of every process is looked at every second. What counts is not how much is stored, but that the rest is refused, that
 *  every acknowledged event arrives or lies in a gap, and that no process grows. */

import { setTimeout as pause } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import { rssBytesOf } from '../measure/process-usage.ts';
import { spreadOf } from '../measure/spread.ts';
import { surroundings, writeResult } from '../report/result.ts';
import { type Goal, goalTable, tableOf } from '../report/table.ts';
import type { DevicesVerbs, NotifyTally } from '../simulate/devices-main.ts';
import type { ListenerVerbs } from '../simulate/listener-main.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';

export interface OverloadOptions {
  readonly minutes: number;
  readonly say: (line: string) => void;
}

const MiB = 2 ** 20;
const SMALL = { group: 'small', devices: 400, shape: { kind: 'alarm', bytes: 400 }, perSecond: 12_000 } as const;
const LARGE = { group: 'large', devices: 100, shape: { kind: 'alarm', bytes: 60_000 }, perSecond: 600 } as const;
/** More than the edge lets wait of one device. */
const WINDOW = 300;
const DEAF_SUBSCRIBERS = 5;
/** Of one question to the devices. */
const SLICE_MS = 20_000;
const STILL_MS = 1_000;
const RUNNING_MS = 2_000;
const DELIVERY_DEADLINE_MS = 30_000;
const SAMPLE_MS = 1_000;
/** Small, so that the store is full after seconds: 16 shards. */
const RETENTION_BYTES = 8 * MiB;
/** What the edge may hold of events is 64 MiB and what the command service may hold for subscribers 256 MiB; a process of Node takes some 100 MiB
 *  without any, and its garbage some of it again. Redis holds twice its streams while they are rewritten. */
const BOUND_BYTES = { edge: 512 * MiB, command: 512 * MiB, redis: 512 * MiB } as const;

type Role = keyof typeof BOUND_BYTES;

export async function measureOverload({ minutes, say }: OverloadOptions): Promise<void> {
  const stops: (() => Promise<void>)[] = [];
  try {
    const devices = new Worker<DevicesVerbs>('simulate/devices-main');
    const listeners = new Worker<ListenerVerbs>('simulate/listener-main');
    stops.push(
      () => devices.stop(),
      () => listeners.stop(),
    );
    const retention = { LAPI_EVENT_RETENTION_BYTES: String(RETENTION_BYTES) };
    const lapi = await LapiSystem.start({
      edges: 1,
      commands: 1,
      subscriptions: false,
      edgeEnv: { LAPI_REGISTRATIONS_PER_SECOND: '1000000', ...retention },
      commandEnv: retention,
    });
    stops.push(() => lapi.stop());
    const [edge] = lapi.edges;
    const [command] = lapi.commands;
    if (edge === undefined || command === undefined) throw new RangeError('no edge or no command service');
    for (const { group, devices: count } of [SMALL, LARGE]) {
      const known = await lapi.provision(count, group.toUpperCase());
      const plan = { group, dialect: 'lapi', ports: [edge.port], answerBytes: 200, atOnce: 32, retry: false } as const;
      const tally = await devices.ask('enter', { ...plan, devices: known });
      if (tally.entered !== count) throw new Error(`${group}: ${tally.entered} of ${count} devices came in`);
    }
    const way = { port: lapi.apiPort, headers: lapi.headers, transport: 'sse' } as const;
    await listeners.ask('listen', { ...way, group: 'live', count: 1 });
    await listeners.ask('listen', { ...way, group: 'deaf', count: DEAF_SUBSCRIBERS, deaf: true });

    say(
      `Overload for ${minutes} min: ${SMALL.perSecond} events/s of 400 B, ${LARGE.perSecond}/s of 60 KB, Redis still a third of the time …`,
    );
    const samples: Record<Role, number[]> = { edge: [], command: [], redis: [] };
    const endMs = performance.now() + minutes * 60_000;
    const isOver = (): boolean => performance.now() >= endMs;
    const sample = async (): Promise<void> => {
      while (!isOver()) {
        samples.edge.push(rssBytesOf(edge.pid));
        samples.command.push(rssBytesOf(command.pid));
        samples.redis.push(rssBytesOf(lapi.redis.pid() ?? 0));
        await pause(SAMPLE_MS);
      }
    };
    const hinder = async (): Promise<void> => {
      while (!isOver()) {
        await lapi.redis.kill('SIGSTOP');
        await pause(STILL_MS);
        await lapi.redis.kill('SIGCONT');
        await pause(RUNNING_MS);
      }
    };
    const press = async ({ group, shape, perSecond }: typeof SMALL | typeof LARGE): Promise<NotifyTally[]> => {
      const tallies: NotifyTally[] = [];
      while (!isOver()) {
        tallies.push(await devices.ask('notify', { group, shape, window: WINDOW, durationMs: SLICE_MS, perSecond }));
        if (group === SMALL.group) {
          const [mine, theirs] = [samples.edge.at(-1) ?? 0, samples.command.at(-1) ?? 0].map((rss) =>
            (rss / MiB).toFixed(0),
          );
          say(
            `accepted ${tallies.at(-1)?.accepted}, refused ${tallies.at(-1)?.refused}; edge ${mine} MiB, command ${theirs} MiB`,
          );
        }
      }
      return tallies;
    };
    const [small, large] = await Promise.all([press(SMALL), press(LARGE), sample(), hinder()]);
    const sums = { small: sumOf(small), large: sumOf(large) };
    const acknowledged = sums.small.accepted + sums.large.accepted;
    const live = await waitFor(
      async () => {
        const tally = await listeners.ask('tally', 'live');
        return tally.least + tally.missed >= acknowledged && tally;
      },
      { deadlineMs: DELIVERY_DEADLINE_MS, what: `${acknowledged} events at the live subscriber`, intervalMs: 100 },
    );
    const gone = DEAF_SUBSCRIBERS + 1 - (await metricOf(command.probePort, 'lapi_event_connections'));
    const { lost } = await devices.ask('counts', SMALL.group);

    const rows = Object.entries(samples).map(([role, all]) => [
      role,
      ...thirdsOf(all).map(mebi),
      mebi(Math.max(...all)),
    ]);
    say('\nResident memory, MiB: median of each third of the time\n');
    say(tableOf(['process', 'first', 'second', 'third', 'most'], rows));
    say(
      `\n400 B: ${sums.small.accepted} stored, ${sums.small.refused} refused, ${sums.small.notSent} not sent. 60 KB: ${sums.large.accepted} stored, ${sums.large.refused} refused. ` +
        `The live subscriber got ${live.least} and was told of ${live.missed} that it missed (what was stored too late for an answer counts too), cut off as slow ${live.resumed} times and back with its cursor; ${gone} of ${DEAF_SUBSCRIBERS} that did not read are gone; ${lost} devices lost their connection.`,
    );
    const goals: Goal[] = Object.entries(samples).map(([role, all]) => ({
      name: `${role}, most`,
      measured: Math.max(...all) / MiB,
      limit: BOUND_BYTES[role as Role] / MiB,
      sense: 'at most',
      unit: ' MiB',
    }));
    say(`\n${goalTable(goals)}`);
    const facts = await surroundings(lapi.redis);
    const file = writeResult('event-overload', {
      ...facts,
      settings: {
        minutes,
        small: SMALL,
        large: LARGE,
        window: WINDOW,
        retentionBytes: RETENTION_BYTES,
        boundBytes: BOUND_BYTES,
      },
      sums,
      live,
      gone,
      lost,
      samples,
    });
    say(
      `\nWritten to ${file}. Machine: ${facts.cores} × ${facts.cpu}, load ${facts.loadAtStart.toFixed(1)} at the end; commit ${facts.commit}.`,
    );
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

async function metricOf(port: number, name: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\d+)`, 'm').exec(text)?.[1]);
}

function sumOf(tallies: readonly NotifyTally[]): Pick<NotifyTally, 'sent' | 'accepted' | 'refused' | 'notSent'> {
  const sum = (pick: (tally: NotifyTally) => number): number => tallies.reduce((all, each) => all + pick(each), 0);
  return {
    sent: sum(({ sent }) => sent),
    accepted: sum(({ accepted }) => accepted),
    refused: sum(({ refused }) => refused),
    notSent: sum(({ notSent }) => notSent),
  };
}

function thirdsOf(samples: readonly number[]): number[] {
  const size = Math.max(1, Math.floor(samples.length / 3));
  return [0, 1, 2].map((third) => spreadOf(samples.slice(third * size, (third + 1) * size)).median);
}

function mebi(bytes: number): string {
  return (bytes / MiB).toFixed(0);
}
