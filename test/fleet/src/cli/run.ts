/** One run of the command: provision, start, report, wait, leave. Resolves with the exit code when nothing is open any more.
 *  `interrupted` settles on Ctrl-C; from then on leaving takes at most five seconds, unregistering included. */

import { randomBytes } from 'node:crypto';
import { Fleet, planFleet } from '../fleet.ts';
import { provisionDevices } from '../provision.ts';
import { type CommandLine, parseCommandLine } from './options.ts';
import { missingSentence, reportLine, summary } from './report.ts';

export interface Terminal {
  /** The result: help, summary. */
  out(line: string): void;
  /** Complaints. */
  error(line: string): void;
  /** Live lines; `transient` ones may be overwritten by the next. */
  live(line: string, transient: boolean): void;
  /** True when a person watches the live lines. */
  readonly interactive: boolean;
}

const STOP_MS = 5000;
const INTERACTIVE_REPORT_MS = 1000;
const PLAIN_REPORT_MS = 5000;

export async function runCommand(
  args: readonly string[],
  terminal: Terminal,
  interrupted: Promise<void>,
): Promise<number> {
  const parsed = parseCommandLine(args, () => randomBytes(24).toString('base64url'));
  if (parsed.status === 'help') {
    terminal.out(parsed.text);
    return 0;
  }
  if (parsed.status === 'wrong') {
    terminal.error(parsed.sentence);
    return 2;
  }
  let stopping = false;
  const stop = interrupted.then(() => {
    stopping = true;
  });
  const { options } = parsed;
  if (!(await provision(options, terminal, stop))) return stopping ? 0 : 1;

  const fleet = new Fleet(options.fleet);
  const startedMs = performance.now();
  const endReports = startReports(fleet, terminal, startedMs);
  fleet.start();
  const waitMs = options.waitMs === 0 ? Number.POSITIVE_INFINITY : options.waitMs;
  const waited = await Promise.race([fleet.untilOnline(waitMs), stop]);
  const exitCode = waited === false && !stopping ? 1 : 0;
  if (exitCode === 0 && !stopping) await untilOver(options.durationMs, stop);

  const snapshot = fleet.snapshot();
  const missing = fleet.missing().length;
  endReports();
  await fleet.stop(STOP_MS);
  if (exitCode === 1) terminal.error(missingSentence(snapshot, missing, options.waitMs / 1000));
  if (options.json)
    terminal.out(summary(snapshot, { missing, seconds: (performance.now() - startedMs) / 1000, exitCode }));
  return exitCode;
}

/** False when it failed or was interrupted. */
async function provision(options: CommandLine, terminal: Terminal, stop: Promise<void>): Promise<boolean> {
  if (options.provision === undefined) return true;
  const { api, key, tags, profile } = options.provision;
  const devices = planFleet(options.fleet);
  const abort = new AbortController();
  void stop.then(() => abort.abort());
  const settings = { api, key, tags, signal: abort.signal, ...(profile === undefined ? {} : { profile }) };
  const outcome = await provisionDevices(devices, settings, (done) => {
    if (done % 100 === 0 || done === devices.length)
      terminal.live(`provisioned ${done}/${devices.length}`, done < devices.length);
  });
  if (outcome.status === 'failed' && !abort.signal.aborted) terminal.error(outcome.sentence);
  return outcome.status === 'done';
}

function startReports(fleet: Fleet, terminal: Terminal, startedMs: number): () => void {
  let before = fleet.snapshot();
  let beforeMs = startedMs;
  const report = (transient: boolean) => {
    const nowMs = performance.now();
    const now = fleet.snapshot();
    const recent = fleet.recentEventMs;
    const line = reportLine({
      now,
      before,
      secondsBetween: (nowMs - beforeMs) / 1000,
      secondsSinceStart: (nowMs - startedMs) / 1000,
      recentEventMs: { p50: recent.percentile(50), p99: recent.percentile(99) },
    });
    terminal.live(line, transient);
    recent.clear();
    before = now;
    beforeMs = nowMs;
  };
  const interval = setInterval(() => report(true), terminal.interactive ? INTERACTIVE_REPORT_MS : PLAIN_REPORT_MS);
  return () => {
    clearInterval(interval);
    report(false);
  };
}

async function untilOver(durationMs: number | undefined, stop: Promise<void>): Promise<void> {
  if (durationMs === undefined) return stop;
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, durationMs);
  });
  await Promise.race([over, stop]);
  clearTimeout(timer);
}
