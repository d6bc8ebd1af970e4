/** A long run: a broker on a store with sentinels, thousands of devices that come and go, commands and events at a steady pace, drains and failovers by
 *  a timetable, samples of every process; then rest, and the judgement. Samples are written as they come, so that a run that is broken off has them
 *  too. Ends what it started, also when it fails or is stopped; a stop ends the load early and judges what there is. */

import { appendFile, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import { PullConsumer, SocketConsumer } from '../event/consumer.ts';
import { LiveReader } from '../event/live-reader.ts';
import { Chance } from '../random.ts';
import { Rig } from '../rig.ts';
import { CommandLedger } from './command-ledger.ts';
import { Commands } from './commands.ts';
import { Devices } from './devices.ts';
import { drain, failOver, timetable } from './disturb.ts';
import { EventLedger } from './event-ledger.ts';
import { judge } from './judge.ts';
import type { SoakResult } from './report.ts';
import { type Sample, sampleProcesses, sampleStore } from './sample.ts';
import { Windows } from './window.ts';

export interface SoakOptions {
  readonly minutes: number;
  readonly devices: number;
  readonly churnPerMinute: number;
  readonly commandsPerSecond: number;
  readonly eventsPerSecond: number;
  readonly drainEveryMs: number;
  readonly failoverEveryMs: number;
  readonly sampleMs: number;
  readonly seed: number;
  readonly dir: string;
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

const GROUP = 'soak';
const LIVE = 'live';
const ACK_DEADLINE_SECONDS = 10;
const MAX_ATTEMPTS = 100;
const FORGETS = 0.0005;
const DRAIN_SECONDS = 20;
const STARTED_PER_SECOND = 200;
const SPREAD_PER_SECOND = 20;
const ONLINE_MS = 300_000;
const REST_MS = 180_000;
/** Past the longest that a command may take. */
const COMMANDS_END_MS = 100_000;
const PRESENCE_MS = 60_000;
const OVERDUE_MS = 60_000;
const MINUTE_MS = 60_000;
const LOG_LINES = 2_000;

export async function runSoak(options: SoakOptions): Promise<SoakResult> {
  const { minutes, devices: count, seed, say, dir } = options;
  const failed = new AbortController();
  const signal = AbortSignal.any([failed.signal, options.signal]);
  await mkdir(dir, { recursive: true });
  const samplesFile = path.join(dir, 'samples.jsonl');
  await writeFile(samplesFile, '');
  const totalMs = minutes * MINUTE_MS;
  // What is kept reaches its level while the run warms up.
  const keepSeconds = Math.round(Math.min(600, Math.max(60, (totalMs / 1_000) * 0.08)));
  const warmUpMs = Math.max(0.12 * totalMs, 1_200 * keepSeconds);
  const rig = await Rig.start({
    store: 'sentinel',
    edges: 2,
    commands: 2,
    env: {
      LAPI_DRAIN_SECONDS: String(DRAIN_SECONDS),
      LAPI_COMMAND_KEEP_SECONDS: String(keepSeconds),
      LAPI_EVENT_RETENTION_SECONDS: String(keepSeconds),
      // One key for each device of a drain: gone before the next sample counts.
      LAPI_TIMELINE_SECONDS: '60',
      LAPI_CONNECTIONS_PER_ADDRESS: '100000',
      LAPI_KEY_REQUESTS_PER_SECOND: '10000000',
    },
  });
  const chance = new Chance(seed);
  const windows = new Windows();
  const events = new EventLedger([GROUP, LIVE]);
  const commandLedger = new CommandLedger();
  const weather = (): ReturnType<Windows['at']> => windows.at(performance.now());
  const samples: Sample[] = [];
  const logs: string[] = [];
  const wrong: string[] = [];
  const stopping: (() => Promise<void> | void)[] = [];
  let done = false;
  try {
    const codes = Array.from({ length: count }, (_, i) => `210235SOAK${String(i).padStart(10, '0')}`);
    say(`${count} devices are made known …`);
    const secrets = await rig.provision(codes);
    const body = { name: GROUP, ordered: true, ackDeadlineSeconds: ACK_DEADLINE_SECONDS, maxAttempts: MAX_ATTEMPTS };
    const made = await rig.broker.api('/v1/subscriptions', { method: 'POST', body });
    if (made.status !== 201) throw new Error(`POST subscription: ${made.status} ${made.text}`);
    const reading = { urls: rig.commandUrls, apiKey: rig.broker.apiKey, recorder: events };
    const live = new LiveReader({ ...reading, reader: LIVE });
    stopping.push(() => live.stop());
    live.start();
    await waitFor(() => live.begun, { deadlineMs: ONLINE_MS, what: 'the live stream' });
    const consumers = [PullConsumer, PullConsumer, SocketConsumer].map(
      (Kind, i) =>
        new Kind({ ...reading, subscription: GROUP, by: `${i + 1}`, firstUrl: i % 2, forgets: FORGETS, chance }),
    );
    for (const consumer of consumers) {
      stopping.push(() => consumer.stop());
      consumer.start();
    }
    const devices = new Devices({ secrets, urls: rig.edgeUrls, events, commands: commandLedger, chance, weather });
    stopping.push(() => devices.stop());
    devices.start(STARTED_PER_SECOND);
    await waitFor(() => devices.online === count, { deadlineMs: ONLINE_MS, what: 'all devices' });
    say(`${count} devices are online.`);

    const commands = new Commands({
      codes,
      urls: rig.commandUrls,
      apiKey: rig.broker.apiKey,
      ledger: commandLedger,
      chance,
      weather,
      cause: (code, fromMs, toMs) => {
        if (windows.blurs(fromMs, toMs)) return 'failover';
        return devices.hasLeftSince(code, fromMs) ? 'its device left' : undefined;
      },
    });
    stopping.push(() => commands.rest());
    const beganMs = performance.now();
    const leftMs = (): number => (signal.aborted ? 0 : beganMs + totalMs - performance.now());
    commands.start(options.commandsPerSecond);
    devices.sendEvents(options.eventsPerSecond);
    devices.churn(options.churnPerMinute);

    const tell = (): void => {
      const { sent, stored, refused, gaps, violations, received } = events.counts;
      const told = commandLedger.counts;
      const readers = Object.entries(received).map(
        ([reader, { events: seen, again }]) => `${reader} ${seen} (${again} again)`,
      );
      say(
        `${((performance.now() - beganMs) / MINUTE_MS).toFixed(1)} min, ${weather()}: ${devices.online} online; events ${sent} sent, ${stored} stored, ${refused} refused, ${readers.join(', ')}, ` +
          `${events.overdue(performance.now(), OVERDUE_MS)} overdue, ${gaps} gaps; commands ${told.submitted} submitted, ${told.succeeded} succeeded, ${told.notExecuted} not executed, ` +
          `${told.maybe} uncertain (${told.excused} excused), ${told.unsure} without an answer, ${commands.out} out; violations ${violations + told.violations}`,
      );
    };
    const sampling = (async () => {
      let toldMs = performance.now();
      while (leftMs() > 0) {
        const nowMs = performance.now();
        const lastOver = windows.all.reduce((last, { toMs }) => Math.max(last, toMs ?? nowMs), beganMs);
        const [processes, store, progress] = await Promise.all([
          sampleProcesses(rig),
          sampleStore(rig),
          rig.progress(GROUP).catch(() => undefined),
        ]);
        const sample: Sample = {
          atMs: Math.round(nowMs - beganMs),
          weather: windows.at(nowMs),
          stretch: windows.all.length,
          calmMs: Math.round(nowMs - lastOver),
          processes,
          store,
          lag: progress === undefined ? undefined : progress.lag + progress.waiting + progress.inFlight,
          online: devices.online,
          commandsOut: commands.out,
        };
        samples.push(sample);
        await appendFile(samplesFile, `${JSON.stringify(sample)}\n`);
        if (performance.now() - toldMs >= MINUTE_MS) {
          toldMs = performance.now();
          tell();
        }
        await pause(Math.min(leftMs(), nowMs + options.sampleMs - performance.now()), signal);
      }
    })();
    const disturbing = (async () => {
      let drains = 0;
      for (const { what, atMs } of timetable(totalMs, options.drainEveryMs, options.failoverEveryMs)) {
        await pause(beganMs + atMs - performance.now(), signal);
        if (leftMs() <= 0) return;
        const edge = drains % rig.edges.length;
        const about = what === 'drain' ? `edge ${edge + 1} leaves and comes back` : 'kill -9 of the master';
        say(`${((performance.now() - beganMs) / MINUTE_MS).toFixed(1)} min: ${what}, ${about} …`);
        const window = windows.begin(what, about, performance.now());
        try {
          if (what === 'drain') {
            drains += 1;
            keepLog(logs, rig.edge(edge).lines());
            await drain(rig, edge, DRAIN_SECONDS);
          } else await failOver(rig);
        } catch (error) {
          // The run goes on: what it has seen so far is worth its judgement.
          const about = error instanceof Error ? error.message : String(error);
          wrong.push(`minute ${((window.fromMs - beganMs) / MINUTE_MS).toFixed(1)}, ${what}: ${about}`);
          say(`  went wrong: ${about}`);
        }
        window.toMs = performance.now();
        say(`  took ${((window.toMs - window.fromMs) / 1_000).toFixed(1)} s`);
        if (what === 'drain') devices.spread(SPREAD_PER_SECOND);
      }
    })();
    await Promise.all([sampling, disturbing]).finally(() => failed.abort());

    say('The load ends; what is under way comes to rest …');
    commands.rest();
    devices.rest();
    const restMs = performance.now();
    const until = async (what: string, deadlineMs: number, isSo: () => boolean | Promise<boolean>): Promise<void> => {
      await waitFor(isSo, { deadlineMs, what, intervalMs: 500 }).catch(() => say(`  not so within its time: ${what}`));
    };
    await until('all commands have ended', COMMANDS_END_MS, () => commands.out === 0);
    await until('all events are stored', REST_MS, () => events.unstored === 0);
    const isIdle = async (): Promise<boolean> => {
      const progress = await rig.progress(GROUP).catch(() => undefined);
      return progress !== undefined && progress.lag + progress.waiting + progress.inFlight === 0;
    };
    await until('the subscription has nothing left to do', REST_MS, isIdle);
    await until('every reader has every stored event', REST_MS, () => events.overdue(performance.now(), 0) === 0);
    await until('all devices are online', PRESENCE_MS, () => devices.online === count);
    let presence = await comparePresence(rig, devices);
    await until('the API says what the sockets say', PRESENCE_MS, async () => {
      presence = await comparePresence(rig, devices);
      return presence.missing + presence.wrong === 0;
    });
    const progress = await rig.progress(GROUP);
    tell();
    const untrue = commandLedger.close();
    const arrival = events.close();
    for (const process of [...rig.edges, ...rig.commands]) keepLog(logs, process.lines());
    await writeFile(path.join(dir, 'warnings.log'), `${logs.join('\n')}\n`);
    const lines = judge(samples, { warmUpMs, settleMs: 0.05 * Math.min(totalMs, 3_600_000), leastMs: 20 * MINUTE_MS });
    const result: SoakResult = {
      minutes: (restMs - beganMs) / MINUTE_MS,
      options: {
        devices: count,
        churnPerMinute: options.churnPerMinute,
        commandsPerSecond: options.commandsPerSecond,
        eventsPerSecond: options.eventsPerSecond,
        keepSeconds,
        warmUpMinutes: warmUpMs / MINUTE_MS,
        seed,
      },
      windows: windows.all.map(({ what, about, fromMs, toMs }) => ({
        what,
        about,
        atMinute: (fromMs - beganMs) / MINUTE_MS,
        tookMs: Math.round((toMs ?? restMs) - fromMs),
      })),
      events: { ...events.counts, notSent: devices.notSent, unstored: events.unstored, arrival },
      commands: { ...commandLedger.counts, untrue, notSubmitted: commands.notSubmitted },
      rest: progress,
      presence,
      answers: Object.fromEntries([...commands.answers].sort()),
      latencies: Object.fromEntries([...commands.latencies].sort().map(([key, list]) => [key, spreadOf(list)])),
      ends: devices.ends,
      wrong,
      lines,
      violations: [...events.violations, ...commandLedger.violations],
    };
    for (const stop of stopping.splice(0).reverse()) await stop();
    await rig.stop();
    done = true;
    return result;
  } finally {
    for (const stop of stopping.splice(0).reverse()) await stop();
    if (!done) await rig.kill();
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await sleep(ms, undefined, { signal }).catch(() => undefined);
}

/** Warnings and errors of a process. */
function keepLog(logs: string[], lines: readonly string[]): void {
  for (const line of lines) if (/"level":"?(?:warn|error|fatal|40|50|60)/.test(line)) logs.push(line);
  if (logs.length > LOG_LINES) logs.splice(0, logs.length - LOG_LINES);
}

/** Devices that the API calls online against those that have a socket. */
async function comparePresence(rig: Rig, devices: Devices): Promise<SoakResult['presence']> {
  const said = new Set<string>();
  let cursor: string | undefined;
  do {
    const query = cursor === undefined ? '' : `&cursor=${encodeURIComponent(cursor)}`;
    const answer = await rig.broker.api(`/v1/devices?online=true&limit=500${query}`);
    if (answer.status !== 200) throw new Error(`GET devices: ${answer.status} ${answer.text}`);
    const page = answer.json() as { readonly items?: readonly { readonly code: string }[]; readonly cursor?: string };
    for (const { code } of page.items ?? []) said.add(code);
    cursor = page.cursor;
  } while (cursor !== undefined);
  const open = devices.onlineCodes;
  return {
    online: open.size,
    missing: [...open].filter((code) => !said.has(code)).length,
    wrong: [...said].filter((code) => !open.has(code)).length,
  };
}

function spreadOf(list: readonly number[]): { count: number; p50Ms: number; p99Ms: number; maxMs: number } {
  const sorted = [...list].sort((a, b) => a - b);
  const at = (share: number): number => Math.round(10 * (sorted[Math.ceil(sorted.length * share) - 1] ?? 0)) / 10;
  return { count: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}
