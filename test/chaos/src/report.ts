/** What runs tell: one row of a table each, a JSON file with the numbers and, where a promise was broken, with the whole history; and for each
 *  violation the shortest part of the history that shows it. */

import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { EventHistory } from './event/history.ts';
import { tracesOf } from './history/checker.ts';
import type { History } from './history/history.ts';
import type { StoreKind } from './rig.ts';
import type { RunResult } from './run.ts';
import { type Served, servedIn } from './whole/others.ts';

export const RESULTS = fileURLToPath(new URL('../result/', import.meta.url));
const SHOWN_VIOLATIONS = 5;
const SHOWN_ENTRIES = 60;

export interface CommandNumbers {
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
}

export interface EventNumbers {
  /** Different numbers, over all devices. */
  readonly events: number;
  /** With those that were sent again. */
  readonly sent: number;
  /** Answered with success, refused, and without an answer when the session ended. */
  readonly stored: number;
  readonly refusals: number;
  readonly unanswered: number;
  /** Hand-outs of all durable subscriptions, and those among them that were not the first of their event. */
  readonly delivered: number;
  readonly again: number;
  /** What the live stream got. */
  readonly live: number;
  /** Different ones, of all readers, and what they count together. */
  readonly gaps: number;
  readonly missing: number;
}

export interface Numbers extends CommandNumbers, EventNumbers {
  readonly fault: string;
  readonly store: StoreKind;
  readonly seed: number;
  /** Direct calls to devices that the fault does not touch, before it and while it lasts. */
  readonly others: { readonly before: Served; readonly during: Served };
  /** From the end of the fault until all views of who is connected agreed. */
  readonly agreedMs: number;
  readonly tookMs: number;
  readonly violations: number;
  /** By check. */
  readonly found: Readonly<Record<string, number>>;
}

export function numbersOf(fault: string, store: StoreKind, seed: number, result: RunResult): Numbers {
  const found: Record<string, number> = {};
  for (const { check } of result.violations) found[check] = (found[check] ?? 0) + 1;
  return {
    fault,
    store,
    seed,
    ...commandNumbersOf(result.commands),
    ...eventNumbersOf(result.events),
    others: servedIn(result.commands),
    agreedMs: result.agreedMs,
    tookMs: result.tookMs,
    violations: result.violations.length,
    found,
  };
}

function commandNumbersOf(history: History): CommandNumbers {
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
  };
}

function eventNumbersOf({ readers, entries }: EventHistory): EventNumbers {
  const numbers = new Set<string>();
  const gaps = new Map<string, number>();
  const counts = { sent: 0, stored: 0, refusals: 0, unanswered: 0, delivered: 0, again: 0, live: 0 };
  const seen = new Set<string>();
  for (const entry of entries) {
    if (entry.kind === 'send') {
      numbers.add(`${entry.device} ${entry.number}`);
      counts.sent += 1;
    } else if (entry.kind === 'answer') {
      counts[entry.code === 0 ? 'stored' : 'refusals'] += 1;
    } else if (entry.kind === 'unanswered') {
      counts.unanswered += 1;
    } else if (entry.kind === 'gap') {
      gaps.set(`${entry.reader} ${entry.from} ${entry.to} ${entry.count}`, entry.count ?? 0);
    } else if (entry.kind === 'receive' && entry.number !== undefined) {
      if (readers.get(entry.reader) === 'live') counts.live += 1;
      else {
        counts.delivered += 1;
        const key = `${entry.reader} ${entry.id}`;
        if (seen.has(key)) counts.again += 1;
        seen.add(key);
      }
    }
  }
  const missing = [...gaps.values()].reduce((sum, count) => sum + count, 0);
  return { events: numbers.size, ...counts, gaps: gaps.size, missing };
}

type Columns<T> = readonly (readonly [string, (row: T) => string | number])[];

const COLUMNS: Columns<Numbers> = [
  ['fault', ({ fault }) => fault],
  ['store', ({ store }) => store],
  ['seed', ({ seed }) => seed],
  ['commands', ({ commands }) => commands],
  ['accepted', ({ accepted }) => accepted],
  ['succeeded', ({ states }) => states.succeeded ?? 0],
  ['unknown', ({ states }) => (states.unknown ?? 0) + (states.timed_out ?? 0)],
  ['by fault', ({ blurred }) => blurred],
  ['p50 ms', ({ p50Ms }) => p50Ms],
  ['p99 ms', ({ p99Ms }) => p99Ms],
  ['events', ({ events }) => events],
  ['sent', ({ sent }) => sent],
  ['handed out', ({ delivered }) => delivered],
  ['(again)', ({ again }) => again],
  ['missing', ({ missing }) => missing],
  ['others p99 ms', ({ others: { before, during } }) => (during.calls === 0 ? '' : `${before.p99Ms}/${during.p99Ms}`)],
  ['errors', ({ others: { during } }) => (during.calls === 0 ? '' : `${during.errors}/${during.calls}`)],
  ['agreed s', ({ agreedMs }) => (agreedMs / 1_000).toFixed(1)],
  ['seconds', ({ tookMs }) => (tookMs / 1_000).toFixed(0)],
  ['violations', ({ violations, found }) => (violations === 0 ? 0 : `${violations} ${Object.keys(found).join(' ')}`)],
];

/** `unknown`: and timed out. `by fault`: of these, not because the device was slow or mute. `others`: direct calls to devices that the fault does
 *  not touch, before and during it. */
export function table(rows: readonly Numbers[]): string {
  return layOut(COLUMNS, rows);
}

export interface Told {
  readonly fault: string;
  readonly store: StoreKind;
  readonly runs: number;
  readonly commands: number;
  readonly events: number;
  readonly blurred: number;
  readonly violations: number;
}

const TOLD_COLUMNS: Columns<Told> = [
  ['fault', ({ fault }) => `\`${fault}\``],
  ['store', ({ store }) => store],
  ['runs', ({ runs }) => runs],
  ['commands', ({ commands }) => commands],
  ['events', ({ events }) => events],
  ['unknown by fault', ({ blurred }) => blurred],
  ['violations', ({ violations }) => violations],
];

/** One row per fault and store, for a document. */
export function markdown(rows: readonly Numbers[]): string {
  const told = [...Map.groupBy(rows, ({ fault, store }) => `${fault} ${store}`).values()].flatMap((same): Told[] => {
    const [first] = same;
    if (first === undefined) return [];
    const sum = (of: (row: Numbers) => number): number => same.reduce((all, row) => all + of(row), 0);
    return [
      {
        fault: first.fault,
        store: first.store,
        runs: same.length,
        commands: sum(({ accepted }) => accepted),
        events: sum(({ events }) => events),
        blurred: sum(({ blurred }) => blurred),
        violations: sum(({ violations }) => violations),
      },
    ];
  });
  const line = (cells: readonly (string | number)[]): string => `| ${cells.join(' | ')} |`;
  return [
    line(TOLD_COLUMNS.map(([name]) => name)),
    line(TOLD_COLUMNS.map(() => '---')),
    ...told.map((row) => line(TOLD_COLUMNS.map(([, cell]) => cell(row)))),
    '',
  ].join('\n');
}

/** Columns as wide as what is in them. */
export function layOut<T>(columns: Columns<T>, rows: readonly T[]): string {
  const cells = [columns.map(([name]) => name), ...rows.map((row) => columns.map(([, cell]) => String(cell(row))))];
  const widths = columns.map((_, column) => Math.max(...cells.map((line) => line[column]?.length ?? 0)));
  return cells
    .map((line) =>
      line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .join('\n');
}

/** The first violations with what was seen of them, times in ms from the begin of the history. Empty when there are none. */
export function tellViolations({ commands, violations }: RunResult): string {
  const beganMs = commands.entries[0]?.atMs ?? 0;
  return violations
    .slice(0, SHOWN_VIOLATIONS)
    .map(({ check, who, what, evidence }) => {
      const plans = who.split(' ').flatMap((word) => commands.commands.get(word) ?? []);
      const shown = evidence.slice(0, SHOWN_ENTRIES).map((entry) => `  ${tellEntry(entry, beganMs)}`);
      const left = evidence.length - shown.length;
      return [
        `${check} ${who}: ${what}`,
        ...plans.map((plan) => `  plan ${JSON.stringify(plan)}`),
        ...shown,
        ...(left > 0 ? [`  … and ${left} more`] : []),
      ].join('\n');
    })
    .join('\n');
}

function tellEntry({ atMs, kind, ...rest }: { readonly atMs: number; readonly kind: string }, beganMs: number): string {
  return `${(atMs - beganMs).toFixed(1).padStart(9)} ${kind} ${JSON.stringify(rest)}`;
}

/** The histories and logs are written only when something is wrong with them. */
export async function writeReport(numbers: Numbers, result: RunResult): Promise<void> {
  const { commands, events, violations, before, after, logs } = result;
  await mkdir(RESULTS, { recursive: true });
  const evidence =
    violations.length === 0
      ? {}
      : { plan: [...commands.commands.values()], commandHistory: commands.entries, eventHistory: events.entries, logs };
  const told = { ...numbers, footprint: { before, after }, violations, ...evidence };
  await writeFile(
    `${RESULTS}${numbers.fault}-${numbers.store}-${numbers.seed}.json`,
    `${JSON.stringify(told, null, 1)}\n`,
  );
}

/** All runs of a matrix so far. */
export async function writeMatrix(name: string, rows: readonly Numbers[], failures: readonly string[]): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  await writeFile(`${RESULTS}${name}.json`, `${JSON.stringify({ runs: rows, failures }, null, 1)}\n`);
  await writeFile(`${RESULTS}${name}.md`, markdown(rows));
}
