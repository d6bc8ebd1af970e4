/** What a long run tells: a verdict per statement, and a table of what may not grow. Pure. */

import type { CommandCounts } from './command-ledger.ts';
import type { EventCounts } from './event-ledger.ts';
import type { Line } from './judge.ts';

export interface SoakResult {
  readonly minutes: number;
  readonly options: Readonly<Record<string, number>>;
  readonly windows: readonly {
    readonly what: string;
    readonly about: string;
    readonly atMinute: number;
    readonly tookMs: number;
  }[];
  readonly events: EventCounts & {
    readonly notSent: number;
    readonly unstored: number;
    readonly arrival: Readonly<Record<string, { readonly lost: number; readonly inGaps: number }>>;
  };
  readonly commands: CommandCounts & { readonly untrue: number; readonly notSubmitted: number };
  /** Of the durable subscription, at the end. */
  readonly rest: Readonly<Record<'lag' | 'waiting' | 'inFlight' | 'deadLetters', number>>;
  /** Open sockets; those that the API does not call online; those that it does without a socket. */
  readonly presence: { readonly online: number; readonly missing: number; readonly wrong: number };
  readonly answers: Readonly<Record<string, number>>;
  readonly latencies: Readonly<
    Record<string, { readonly count: number; readonly p50Ms: number; readonly p99Ms: number; readonly maxMs: number }>
  >;
  readonly ends: Readonly<Record<string, number>>;
  /** Faults that did not go as they should: a process that did not leave cleanly, a failover that did not come. */
  readonly wrong: readonly string[];
  readonly lines: readonly Line[];
  readonly violations: readonly string[];
}

/** Answers that a device which comes and goes explains. */
const FINE = / (?:2\d\d [a-z_]*|503 device_offline)$/;
const MOST_ERRORS = 0.001;
/** Devices that come and go are away for a few seconds: half of a percent of them at any time. */
const MOST_OFFLINE = 0.02;
const MOST_IN_GAPS = 0.001;
/** Of what was asked of the run. */
const LEAST_LOAD = 0.7;
const LEAST_SUCCEEDED = 0.75;
/** From there on lines rest on enough time. */
const JUDGED_MINUTES = 60;

export interface Verdict {
  readonly what: string;
  readonly found: string;
  readonly isGood: boolean;
}

export function verdictsOf(result: SoakResult): Verdict[] {
  const { events, commands, rest, presence, lines } = result;
  const arrival = Object.values(events.arrival);
  const lost = arrival.reduce((sum, each) => sum + each.lost, 0);
  const inGaps = arrival.reduce((sum, each) => sum + each.inGaps, 0);
  const left = rest.lag + rest.waiting + rest.inFlight;
  const uncaused = commands.maybe - commands.excused;
  const judged = lines.filter(({ verdict }) => verdict === 'flat' || verdict === 'grows');
  const growing = judged.filter(({ verdict }) => verdict === 'grows');
  // Sessions that nobody ended on purpose, while nothing was done to the broker; 1001 is the broker's own wish.
  const ended = Object.entries(result.ends)
    .filter(([end]) => end.startsWith('calm') && !end.endsWith(' 1001'))
    .reduce((sum, [, count]) => sum + count, 0);
  const calm = Object.entries(result.answers).filter(([answer]) => answer.startsWith('calm'));
  const asked = calm.reduce((sum, [, count]) => sum + count, 0);
  const offline = calm
    .filter(([answer]) => answer.endsWith(' 503 device_offline'))
    .reduce((sum, [, count]) => sum + count, 0);
  const { devices = 0, commandsPerSecond = 0, eventsPerSecond = 0 } = result.options;
  const dueOf = (perSecond: number): number => perSecond * 60 * result.minutes;
  const got = Object.values(events.received).map((each) => each.events);
  const failed = calm.filter(([answer]) => !FINE.test(answer)).reduce((sum, [, count]) => sum + count, 0);
  const verdict = (what: string, found: string, isGood: boolean): Verdict => ({ what, found, isGood });
  return [
    verdict(
      'load of commands',
      `${commands.submitted} of ${Math.round(dueOf(commandsPerSecond))} submitted, ${commands.succeeded} succeeded`,
      commands.submitted > 0 &&
        commands.submitted >= LEAST_LOAD * dueOf(commandsPerSecond) &&
        commands.succeeded >= LEAST_SUCCEEDED * commands.submitted,
    ),
    verdict(
      'load of events',
      `${events.stored} of ${Math.round(dueOf(eventsPerSecond))} stored, ${got.join(' and ')} received`,
      events.stored > 0 && events.stored >= LEAST_LOAD * dueOf(eventsPerSecond) && got.every((each) => each > 0),
    ),
    verdict(
      'events lost',
      `${lost} of ${events.stored} stored (${inGaps} in announced gaps)`,
      lost === 0 && inGaps <= MOST_IN_GAPS * events.stored,
    ),
    verdict('event violations', `${events.violations}`, events.violations === 0),
    verdict('events never stored', `${events.unstored}`, events.unstored === 0),
    verdict('subscription at rest', `${left} left, ${rest.deadLetters} dead letters`, left + rest.deadLetters === 0),
    verdict('commands without an end', `${commands.open} of ${commands.submitted}`, commands.open === 0),
    verdict('command violations', `${commands.violations}`, commands.violations === 0),
    verdict('uncertain without a cause', `${uncaused} (${commands.excused} with one)`, uncaused === 0),
    verdict('faults gone wrong', `${result.wrong.length}`, result.wrong.length === 0),
    verdict('errors while calm', `${failed} of ${asked} calls`, asked > 0 && failed <= MOST_ERRORS * asked),
    verdict('devices said to be away', `${offline} of ${asked} calls`, offline <= MOST_OFFLINE * asked),
    verdict(
      'online set',
      `${presence.online} of ${devices}, ${presence.missing} missing, ${presence.wrong} wrong`,
      presence.online === devices && presence.missing + presence.wrong === 0,
    ),
    verdict('sessions lost while calm', `${ended}`, ended === 0),
    verdict(
      'what grows',
      growing.length === 0 ? `nothing of ${judged.length} lines` : growing.map(({ what }) => what).join(', '),
      growing.length === 0 && (judged.length > 0 || result.minutes < JUDGED_MINUTES),
    ),
  ];
}

export function tell(result: SoakResult): string {
  const verdicts = verdictsOf(result).map(
    ({ what, found, isGood }) => `  ${isGood ? 'good' : 'BAD '}  ${what.padEnd(28)} ${found}`,
  );
  const rows = result.lines.map(
    ({ what, unit, mean, first, last, perHour, percentPerHour, minutes, verdict }) =>
      `  ${what.padEnd(28)} ${[mean, first, last].map((value) => value.toFixed(1).padStart(9)).join('')}  ${perHour.toFixed(2).padStart(9)} ${unit.padEnd(3)} ${percentPerHour.toFixed(2).padStart(8)} %  ${minutes.toFixed(0).padStart(4)} min  ${verdict}`,
  );
  const latencies = Object.entries(result.latencies).map(
    ([key, { count, p50Ms, p99Ms, maxMs }]) =>
      `  ${key.padEnd(18)} ${count} succeeded, p50 ${p50Ms} ms, p99 ${p99Ms} ms, max ${maxMs} ms`,
  );
  const answers = Object.entries(result.answers).map(([key, count]) => `  ${key.padEnd(44)} ${count}`);
  const ends = Object.entries(result.ends).map(([key, count]) => `  ${key.padEnd(44)} ${count}`);
  return [
    `${result.minutes.toFixed(1)} minutes, ${result.options.devices} devices, ${result.windows.length} faults`,
    ...verdicts,
    '',
    `  ${'what'.padEnd(28)} ${['mean', 'first', 'last'].map((head) => head.padStart(9)).join('')}   per hour`,
    ...rows,
    '',
    'Commands by weather and mode',
    ...latencies,
    ...answers,
    'Sessions that the devices did not end',
    ...ends,
    ...result.wrong,
    ...(result.violations.length === 0 ? [] : ['', 'Violations (the first ones)', ...result.violations]),
  ].join('\n');
}
