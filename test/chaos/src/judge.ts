/** Puts what all checkers found into one form, each with what was seen of it: the shortest part of the history that still shows it. Pure. */

import { checkEvents, type EventViolation, eventEntriesOf } from './event/checker.ts';
import type { EventHistory } from './event/history.ts';
import { type Violation as CommandViolation, check, entriesOf } from './history/checker.ts';
import type { Entry, History } from './history/history.ts';
import { gist, shortest } from './history/shortest.ts';
import type { Leak } from './whole/canary.ts';
import type { FootprintViolation } from './whole/footprint.ts';
import type { PresenceViolation } from './whole/presence.ts';

export interface Violation {
  readonly check: string;
  readonly what: string;
  /** A device, markers, a reader: whom it is about. */
  readonly who: string;
  readonly evidence: readonly { readonly atMs: number; readonly kind: string }[];
}

export interface Findings {
  readonly commands: History;
  readonly events: EventHistory;
  readonly presence: readonly PresenceViolation[];
  readonly whole: readonly (FootprintViolation | Leak | { readonly check: string; readonly what: string })[];
}

/** Evidence is made for so many violations; it costs time. */
const TOLD = 5;

export function judge({ commands, events, presence, whole }: Findings): Violation[] {
  return [
    ...check(commands).map((violation, i) => ({
      check: violation.check,
      what: violation.what,
      who: [violation.device, ...violation.markers].join(' '),
      evidence: i < TOLD ? evidenceOf(commands, violation) : [],
    })),
    ...checkEvents(events).map((violation, i) => ({
      check: violation.check,
      what: violation.what,
      who: [violation.reader, violation.device, violation.number].filter((each) => each !== undefined).join(' '),
      evidence: i < TOLD ? eventEvidenceOf(events, violation) : [],
    })),
    ...presence.map(({ check: name, device, what }, i) => ({
      check: name,
      what,
      who: device,
      evidence:
        i < TOLD
          ? events.entries.filter(
              (entry) => entry.kind === 'receive' && entry.device === device && entry.topic.startsWith('presence.'),
            )
          : [],
    })),
    ...whole.map(({ check: name, what }) => ({ check: name, what, who: '', evidence: [] })),
  ];
}

/** What no number of failovers excuses, wherever a run was disturbed. */
const ALWAYS = new Set(['V1', 'V2', 'V3', 'V6', 'V8', 'V11', 'V14']);

/** Of a run in which the store failed over unasked. */
export function standing(findings: Findings): Violation[] {
  const { readers, entries } = findings.events;
  const violations = judge({ ...findings, events: { readers, entries, rewinds: true } });
  return violations.filter(({ check: name }) => ALWAYS.has(name));
}

/** What holds also where a fault is beyond the promises: they are about what the store forgets. */
const BEYOND = new Set(['V8', 'V12', 'V14', 'alive', 'enough']);

export function counted(violations: readonly Violation[], isBeyond: boolean): readonly Violation[] {
  return isBeyond ? violations.filter(({ check: name }) => BEYOND.has(name)) : violations;
}

function evidenceOf(history: History, violation: CommandViolation): readonly Entry[] {
  const markers = new Set(violation.markers);
  const commands = new Map([...history.commands].filter(([marker]) => markers.has(marker)));
  const last = history.entries.at(-1);
  const shows = (entries: readonly Entry[]): boolean =>
    check({
      commands,
      wallOffsetMs: history.wallOffsetMs,
      entries: last === undefined ? entries : [...entries, last],
    }).some(
      (each) =>
        each.check === violation.check &&
        each.markers.join() === violation.markers.join() &&
        gist(each.what) === gist(violation.what),
    );
  return shortest(entriesOf(history, violation), shows);
}

function eventEvidenceOf(history: EventHistory, violation: EventViolation): EventHistory['entries'] {
  // What is about a whole reader has no small part that shows it.
  if (violation.number === undefined) return eventEntriesOf(history, violation).slice(-100);
  const { readers, rewinds } = history;
  const shows = (entries: EventHistory['entries']): boolean =>
    checkEvents({ readers, rewinds, entries }).some(
      (each) =>
        each.check === violation.check &&
        each.reader === violation.reader &&
        each.device === violation.device &&
        each.number === violation.number &&
        gist(each.what) === gist(violation.what),
    );
  return shortest(eventEntriesOf(history, violation), shows);
}
