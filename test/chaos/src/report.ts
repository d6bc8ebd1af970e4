/** What a run tells: one row of a table, a JSON file with the numbers, and for each violation what was seen of it. */

import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { entriesOf, tracesOf, type Violation } from './history/checker.ts';
import type { Entry, History } from './history/history.ts';
import type { RunResult } from './run.ts';

const RESULTS = fileURLToPath(new URL('../result/', import.meta.url));
const SHOWN_VIOLATIONS = 5;
const SHOWN_ENTRIES = 60;

export interface Numbers {
  readonly fault: string;
  readonly seed: number;
  readonly commands: number;
  /** Got an id. */
  readonly accepted: number;
  /** Got a certain no. */
  readonly refused: number;
  /** Asked without an answer, and without a key to ask again. */
  readonly unsure: number;
  readonly states: Readonly<Record<string, number>>;
  /** Ended by an answer that came after another end. */
  readonly late: number;
  /** Requests that devices received, and the largest number of times of one that may be repeated. */
  readonly received: number;
  readonly mostAttempts: number;
  /** `unknown` and `timed_out` of commands whose device would have answered in time. */
  readonly blurred: number;
  /** Sessions that devices opened. */
  readonly sessions: number;
  /** From the submit, or from the first session of the device if that came later, to the end, ms, of queued commands that succeeded. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly tookMs: number;
  readonly violations: number;
}

export function numbersOf(fault: string, seed: number, { history, violations, tookMs }: RunResult): Numbers {
  const traces = tracesOf(history);
  const states: Record<string, number> = {};
  const waits: number[] = [];
  const sessions = history.entries.filter((entry) => entry.kind === 'socket.open');
  const comes = new Map(sessions.toReversed().map(({ device, atMs }) => [device, atMs]));
  for (const { command, last, ids, acceptedFromMs } of traces) {
    if (last === undefined || ids.size === 0) continue;
    states[last.state] = (states[last.state] ?? 0) + 1;
    if (last.state === 'succeeded' && last.endedAtMs !== undefined && command.mode === 'queue') {
      const fromMs = Math.max(acceptedFromMs, comes.get(command.device) ?? 0);
      waits.push(last.endedAtMs - history.wallOffsetMs - fromMs);
    }
  }
  waits.sort((a, b) => a - b);
  const at = (share: number): number => Math.round(waits[Math.ceil(waits.length * share) - 1] ?? 0);
  return {
    fault,
    seed,
    commands: traces.length,
    accepted: traces.filter(({ ids }) => ids.size > 0).length,
    refused: traces.filter(({ refused }) => refused).length,
    unsure: traces.filter(({ ids, refused }) => ids.size === 0 && !refused).length,
    states,
    late: traces.filter(({ last }) => last?.late).length,
    received: traces.reduce((sum, { receipts }) => sum + receipts.length, 0),
    mostAttempts: Math.max(0, ...traces.map(({ receipts }) => receipts.length)),
    blurred: traces.filter(
      ({ last, command: { reaction, timeoutMs } }) =>
        (last?.state === 'unknown' || last?.state === 'timed_out') &&
        reaction.kind === 'answer' &&
        reaction.afterMs < timeoutMs,
    ).length,
    sessions: sessions.length,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    maxMs: at(1),
    tookMs: Math.round(tookMs),
    violations: violations.length,
  };
}

const COLUMNS: readonly (readonly [string, (numbers: Numbers) => string | number])[] = [
  ['fault', ({ fault }) => fault],
  ['commands', ({ commands }) => commands],
  ['accepted', ({ accepted }) => accepted],
  ['unsure', ({ unsure }) => unsure],
  ['refused', ({ refused }) => refused],
  ['succeeded', ({ states }) => states.succeeded ?? 0],
  ['(late)', ({ late }) => late],
  ['failed', ({ states }) => states.failed ?? 0],
  ['timed_out', ({ states }) => states.timed_out ?? 0],
  ['unknown', ({ states }) => states.unknown ?? 0],
  ['expired', ({ states }) => states.expired ?? 0],
  ['cancelled', ({ states }) => states.cancelled ?? 0],
  ['by fault', ({ blurred }) => blurred],
  ['p50 ms', ({ p50Ms }) => p50Ms],
  ['p99 ms', ({ p99Ms }) => p99Ms],
  ['max ms', ({ maxMs }) => maxMs],
  ['seconds', ({ tookMs }) => (tookMs / 1_000).toFixed(1)],
  ['violations', ({ violations }) => violations],
];

/** `by fault`: uncertain, and not because the device was slow or mute. */
export function table(rows: readonly Numbers[]): string {
  return layOut(COLUMNS, rows);
}

/** Columns as wide as what is in them. */
export function layOut<T>(
  columns: readonly (readonly [string, (row: T) => string | number])[],
  rows: readonly T[],
): string {
  const cells = [columns.map(([name]) => name), ...rows.map((row) => columns.map(([, cell]) => String(cell(row))))];
  const widths = columns.map((_, column) => Math.max(...cells.map((line) => line[column]?.length ?? 0)));
  return cells
    .map((line) =>
      line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .join('\n');
}

/** The first violations with what was seen of them, times in ms from the begin of the history. */
export function tellViolations(history: History, violations: readonly Violation[]): string {
  const beganMs = history.entries[0]?.atMs ?? 0;
  return violations
    .slice(0, SHOWN_VIOLATIONS)
    .map((violation) => {
      const { check, device, markers, what } = violation;
      const plans = markers.map((marker) => `  plan ${JSON.stringify(history.commands.get(marker))}`);
      const entries = entriesOf(history, violation)
        .filter(isNews())
        .map((entry) => `  ${tellEntry(entry, beganMs)}`);
      const left = entries.length - SHOWN_ENTRIES;
      return [
        `${check} ${device} ${markers.join(' ')}: ${what}`,
        ...plans,
        ...entries.slice(0, SHOWN_ENTRIES),
        ...(left > 0 ? [`  … and ${left} more`] : []),
      ].join('\n');
    })
    .join('\n');
}

/** False for a view that says what the one before it said. */
function isNews(): (entry: Entry) => boolean {
  const told = new Map<string, string>();
  return (entry) => {
    if (entry.kind !== 'view') return true;
    const text = JSON.stringify(entry.view ?? null);
    if (told.get(entry.marker) === text) return false;
    told.set(entry.marker, text);
    return true;
  };
}

function tellEntry({ atMs, kind, ...rest }: Entry, beganMs: number): string {
  return `${(atMs - beganMs).toFixed(1).padStart(9)} ${kind} ${JSON.stringify(rest)}`;
}

/** Answers the name of the file. The history is written only when something is wrong with it. */
export async function writeReport(numbers: Numbers, { history, violations }: RunResult): Promise<string> {
  await mkdir(RESULTS, { recursive: true });
  const file = `${RESULTS}${numbers.fault}.json`;
  const evidence = violations.length === 0 ? {} : { plan: [...history.commands.values()], history: history.entries };
  await writeFile(file, `${JSON.stringify({ ...numbers, found: violations, ...evidence }, null, 1)}\n`);
  return file;
}
