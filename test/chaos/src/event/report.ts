/** What rounds of events tell: one row per fault, a JSON file with the numbers of each round, and for each violation what was seen of it. */

import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { layOut } from '../report.ts';
import { type EventViolation, eventEntriesOf } from './checker.ts';
import type { EventEntry, EventHistory } from './history.ts';
import type { EventRound } from './run.ts';

const RESULTS = fileURLToPath(new URL('../../result/', import.meta.url));
const SHOWN_VIOLATIONS = 5;
const SHOWN_ENTRIES = 40;

export interface EventNumbers {
  readonly fault: string;
  readonly rounds: number;
  /** Different numbers, over all devices. */
  readonly events: number;
  /** With those that were sent again. */
  readonly sent: number;
  /** Answered with success, refused, and without an answer when the session ended. */
  readonly stored: number;
  readonly refused: number;
  readonly unanswered: number;
  /** Hand-outs of all durable subscriptions, and those among them that were not the first of their event. */
  readonly delivered: number;
  readonly again: number;
  /** What the live stream got. */
  readonly live: number;
  /** Different ones, of all readers, and what they count together. */
  readonly gaps: number;
  readonly missing: number;
  /** Longest round, ms. */
  readonly tookMs: number;
  readonly violations: number;
}

export function eventNumbersOf(fault: string, { history, violations, tookMs }: EventRound): EventNumbers {
  const numbers = new Set<string>();
  const gaps = new Map<string, number>();
  const counts = { sent: 0, stored: 0, refused: 0, unanswered: 0, delivered: 0, again: 0, live: 0 };
  const seen = new Set<string>();
  for (const entry of history.entries) {
    if (entry.kind === 'send') {
      numbers.add(`${entry.device} ${entry.number}`);
      counts.sent += 1;
    } else if (entry.kind === 'answer') {
      counts[entry.code === 0 ? 'stored' : 'refused'] += 1;
    } else if (entry.kind === 'unanswered') {
      counts.unanswered += 1;
    } else if (entry.kind === 'gap') {
      gaps.set(`${entry.reader} ${entry.from} ${entry.to} ${entry.count}`, entry.count ?? 0);
    } else if (entry.kind === 'receive' && entry.number !== undefined) {
      if (history.readers.get(entry.reader) === 'live') counts.live += 1;
      else {
        counts.delivered += 1;
        const key = `${entry.reader} ${entry.id}`;
        if (seen.has(key)) counts.again += 1;
        seen.add(key);
      }
    }
  }
  const missing = [...gaps.values()].reduce((sum, count) => sum + count, 0);
  return {
    fault,
    rounds: 1,
    events: numbers.size,
    ...counts,
    gaps: gaps.size,
    missing,
    tookMs: Math.round(tookMs),
    violations: violations.length,
  };
}

export function sumOf(fault: string, rounds: readonly EventNumbers[]): EventNumbers {
  const sum = (pick: (numbers: EventNumbers) => number): number => rounds.reduce((all, each) => all + pick(each), 0);
  return {
    fault,
    rounds: sum((each) => each.rounds),
    events: sum((each) => each.events),
    sent: sum((each) => each.sent),
    stored: sum((each) => each.stored),
    refused: sum((each) => each.refused),
    unanswered: sum((each) => each.unanswered),
    delivered: sum((each) => each.delivered),
    again: sum((each) => each.again),
    live: sum((each) => each.live),
    gaps: sum((each) => each.gaps),
    missing: sum((each) => each.missing),
    tookMs: Math.max(0, ...rounds.map((each) => each.tookMs)),
    violations: sum((each) => each.violations),
  };
}

const COLUMNS: readonly (readonly [string, (numbers: EventNumbers) => string | number])[] = [
  ['fault', ({ fault }) => fault],
  ['rounds', ({ rounds }) => rounds],
  ['events', ({ events }) => events],
  ['sent', ({ sent }) => sent],
  ['stored', ({ stored }) => stored],
  ['refused', ({ refused }) => refused],
  ['unanswered', ({ unanswered }) => unanswered],
  ['delivered', ({ delivered }) => delivered],
  ['(again)', ({ again }) => again],
  ['live', ({ live }) => live],
  ['gaps', ({ gaps }) => gaps],
  ['missing', ({ missing }) => missing],
  ['max s', ({ tookMs }) => (tookMs / 1_000).toFixed(1)],
  ['violations', ({ violations }) => violations],
];

export function eventTable(rows: readonly EventNumbers[]): string {
  return layOut(COLUMNS, rows);
}

/** The first violations with what was seen of them, times in ms from the begin of the history. */
export function tellEventViolations(history: EventHistory, violations: readonly EventViolation[]): string {
  const beganMs = history.entries[0]?.atMs ?? 0;
  return violations
    .slice(0, SHOWN_VIOLATIONS)
    .map((violation) => {
      const { check, reader, device, number, what } = violation;
      const entries = eventEntriesOf(history, violation);
      const shown = entries.slice(0, SHOWN_ENTRIES).map((entry) => `  ${tellEntry(entry, beganMs)}`);
      const left = entries.length - shown.length;
      return [
        `${check} ${reader} ${device ?? ''} ${number ?? ''}: ${what}`,
        ...shown,
        ...(left > 0 ? [`  … and ${left} more`] : []),
      ].join('\n');
    })
    .join('\n');
}

function tellEntry({ atMs, kind, ...rest }: EventEntry, beganMs: number): string {
  return `${(atMs - beganMs).toFixed(1).padStart(9)} ${kind} ${JSON.stringify(rest)}`;
}

/** `broken`: a round in which a promise was broken; its whole history is written. */
export async function writeEventReport(
  total: EventNumbers,
  rounds: readonly EventNumbers[],
  broken: EventRound | undefined,
): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  const evidence =
    broken === undefined ? {} : { round: broken.round, found: broken.violations, history: broken.history.entries };
  await writeFile(
    `${RESULTS}${total.fault}.json`,
    `${JSON.stringify({ ...total, each: rounds, ...evidence }, null, 1)}\n`,
  );
}
