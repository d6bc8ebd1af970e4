/** Answers "when is it due next?" for a cron expression of five fields in a time zone. Pure; the only home of cron-parser, which reads the
 *  expression and walks the calendar. Zones are done here, on the tables of the runtime.
 *
 *  Where the clocks of the zone change:
 *  - A time of day that does not exist (clocks go forward) is due at the first moment after it: 02:30 becomes 03:00. Several such times are
 *    due there once.
 *  - A time of day that comes twice (clocks go back) is due the first time only.
 *  - An expression for every hour of the day goes by the hours that pass: it is due in both of the doubled ones, and in no missing one.
 *  Day of month and day of week, where both are restricted, are alternatives, as in cron. */

import { type CronExpression, CronExpressionParser } from 'cron-parser';

export interface Timetable {
  /** minute hour day-of-month month day-of-week. */
  readonly cron: string;
  /** IANA name. */
  readonly timeZone: string;
}

export interface TimetableProblem {
  readonly path: 'cron' | 'timeZone';
  readonly problem: string;
}

const MAX_CRON_CHARS = 120;
const MAX_ZONE_CHARS = 64;
const MAX_ZONES = 700;
const MAX_EXPRESSIONS = 1_000;
const DAY_MS = 86_400_000;
/** Times of day looked at for one answer: those that a change of the clocks leaves out, or that were due before it. */
const MAX_LOOKS = 2_000;
/** Lists of numbers, ranges and steps; names of months and of days only where they belong. The parser knows more (seconds, macros, `L`, `#`,
 *  `H`), which is not for here, and makes something of typing errors: `5*` is fifty to fifty-nine to it, the month MON January. */
const TIMETABLE = new RegExp(
  `^${[
    '\\d{1,2}',
    '\\d{1,2}',
    '\\d{1,2}',
    '(?:\\d{1,2}|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)',
    '(?:\\d|sun|mon|tue|wed|thu|fri|sat)',
  ]
    .map((value) => `(?:\\*|${value}(?:-${value})?)(?:/\\d{1,2})?`)
    .map((part) => `${part}(?:,${part})*`)
    .join(' ')}$`,
  'i',
);

const EXPECTED =
  'must be five fields: minute (0–59) hour (0–23) day of month (1–31) month (1–12 or JAN–DEC) day of week (0–7 or SUN–SAT); each a number, `*`, a list `1,15`, a range `1-5` or a step `*/10`';

/** Undefined for a timetable that is due at some time. */
export function timetableProblem({ cron, timeZone }: Timetable): TimetableProblem | undefined {
  if (timeZone.length > MAX_ZONE_CHARS || !isZone(timeZone))
    return { path: 'timeZone', problem: 'must be an IANA time zone, such as Europe/Berlin or UTC' };
  if (cron.length > MAX_CRON_CHARS || !TIMETABLE.test(cron)) return { path: 'cron', problem: EXPECTED };
  try {
    afterWall(cron, 0);
  } catch (error) {
    return { path: 'cron', problem: `${EXPECTED} (${error instanceof Error ? error.message : String(error)})` };
  }
  return undefined;
}

/** First moment after `afterMs`, ms since the epoch. Throws for a timetable that has a problem. */
export function nextFiring({ cron, timeZone }: Timetable, afterMs: number): number {
  const hourly = isHourly(cron);
  let wallMs = wallOf(afterMs, timeZone);
  for (let look = 0; look < MAX_LOOKS; look++) {
    wallMs = afterWall(cron, wallMs);
    const moments = momentsOf(wallMs, timeZone);
    const chosen = hourly ? moments.find((moment) => moment > afterMs) : (moments[0] ?? endOfGap(wallMs, timeZone));
    if (chosen === undefined || chosen <= afterMs) continue;
    return hourly ? (inDoubledTime(cron, timeZone, afterMs, chosen) ?? chosen) : chosen;
  }
  throw new RangeError(`no moment after ${afterMs} for "${cron}" in ${timeZone}`);
}

function isHourly(cron: string): boolean {
  return expressionOf(cron).fields.hour.values.length === 24;
}

/** Wall times are written as if they were UTC. */
function afterWall(cron: string, wallMs: number): number {
  const expression = expressionOf(cron);
  expression.reset(new Date(wallMs));
  return expression.next().getTime();
}

const expressions = new Map<string, CronExpression>();

/** Remembered, because reading one costs more than asking it. */
function expressionOf(cron: string): CronExpression {
  const known = expressions.get(cron);
  if (known !== undefined) return known;
  const expression = CronExpressionParser.parse(cron, { tz: 'UTC' });
  if (expressions.size >= MAX_EXPRESSIONS) expressions.clear();
  expressions.set(cron, expression);
  return expression;
}

/** The first match in the second pass through a doubled time, if the clocks went back between the two moments. */
function inDoubledTime(cron: string, timeZone: string, afterMs: number, beforeMs: number): number | undefined {
  const [offsetMs, laterOffsetMs] = [offsetOf(afterMs, timeZone), offsetOf(beforeMs, timeZone)];
  if (laterOffsetMs >= offsetMs) return undefined;
  const change = changeBetween(afterMs, beforeMs, timeZone);
  const moment = afterWall(cron, change + laterOffsetMs - 1) - laterOffsetMs;
  return moment < beforeMs ? moment : undefined;
}

/** When the clocks of the zone show this: never, once or twice; earliest first. */
function momentsOf(wallMs: number, timeZone: string): readonly number[] {
  const offsets = new Set([offsetOf(wallMs - DAY_MS, timeZone), offsetOf(wallMs + DAY_MS, timeZone)]);
  return [...offsets]
    .map((offsetMs) => wallMs - offsetMs)
    .filter((moment) => wallOf(moment, timeZone) === wallMs)
    .sort((a, b) => a - b);
}

/** For a wall time that the clocks leave out: when they do. */
function endOfGap(wallMs: number, timeZone: string): number {
  const before = wallMs - offsetOf(wallMs + DAY_MS, timeZone);
  const after = wallMs - offsetOf(wallMs - DAY_MS, timeZone);
  return changeBetween(before, after, timeZone);
}

/** First moment with the later offset; there is one change between the two. */
function changeBetween(earlyMs: number, lateMs: number, timeZone: string): number {
  const offsetMs = offsetOf(earlyMs, timeZone);
  let [low, high] = [earlyMs, lateMs];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (offsetOf(middle, timeZone) === offsetMs) low = middle;
    else high = middle;
  }
  return high;
}

function offsetOf(ms: number, timeZone: string): number {
  return wallOf(ms, timeZone) - ms;
}

const formats = new Map<string, Intl.DateTimeFormat>();

function formatOf(timeZone: string): Intl.DateTimeFormat {
  const known = formats.get(timeZone);
  if (known !== undefined) return known;
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  });
  if (formats.size >= MAX_ZONES) formats.clear();
  formats.set(timeZone, format);
  return format;
}

function isZone(timeZone: string): boolean {
  // The runtime also takes offsets such as `+02:00`, which are no zones.
  if (!/^[A-Za-z]/.test(timeZone)) return false;
  try {
    formatOf(timeZone);
    return true;
  } catch {
    return false;
  }
}

/** What the clocks of the zone show, with the milliseconds. */
function wallOf(ms: number, timeZone: string): number {
  const shown = { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0 };
  for (const { type, value } of formatOf(timeZone).formatToParts(ms)) {
    if (type in shown) shown[type as keyof typeof shown] = Number(value);
  }
  const { year, month, day, hour, minute, second } = shown;
  return Date.UTC(year, month - 1, day, hour, minute, second) + (((ms % 1_000) + 1_000) % 1_000);
}
