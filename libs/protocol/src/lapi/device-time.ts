/** Times as devices write them. Some send seconds since the epoch, as a number or a string, some send milliseconds, some the digits
 *  `YYYYMMDDHHMMSS` or a date with separators, mostly on the clock of their own time zone. What cannot be read, or cannot be true, is
 *  replaced by the time of receipt: a camera without a clock starts in 1970. Pure. */

const SECOND_MS = 1_000;
const DAY_MS = 86_400_000;
const YEAR_2000_MS = Date.UTC(2000, 0, 1);

/** `20250131235959`, `20250131235959123`, `2025-01-31 23:59:59`, `2025-01-31T23:59:59.123+01:00`, `2025/01/31 23:59:59`. */
const CALENDAR =
  /^(?<year>\d{4})[-/]?(?<month>\d\d)[-/]?(?<day>\d\d)[T ]?(?<hour>\d\d):?(?<minute>\d\d):?(?<second>\d\d)(?:[.,]?(?<fraction>\d{1,9}))?\s*(?<zone>Z|[+-]\d\d:?\d\d)?$/i;
const NUMBER = /^\d{9,13}(?:\.\d{1,9})?$/;
/** Seconds have fewer digits than this until the year 5138, milliseconds have as many since 1973. */
const MILLISECONDS_FROM = 100_000_000_000;

/** When it happened, ms since the epoch. `text` is the content of the device's member; `timeZone`, an IANA name, counts where it names none. */
export function deviceTime(text: string, receivedMs: number, timeZone: string): number {
  const ms = readTime(text.trim(), timeZone);
  return ms !== undefined && ms >= YEAR_2000_MS && ms <= receivedMs + DAY_MS ? ms : receivedMs;
}

function readTime(text: string, timeZone: string): number | undefined {
  if (NUMBER.test(text)) {
    const number = Number(text);
    return Math.floor(number < MILLISECONDS_FROM ? number * SECOND_MS : number);
  }
  const found = CALENDAR.exec(text)?.groups;
  if (found === undefined) return undefined;
  const { year, month, day, hour, minute, second, fraction = '', zone } = found;
  const written = `${year}-${month}-${day}T${hour}:${minute}:${second}`;
  const asUtcMs = Date.parse(`${written}Z`);
  // 31 February: no such day, or another one.
  if (Number.isNaN(asUtcMs) || !new Date(asUtcMs).toISOString().startsWith(written)) return undefined;
  const offsetMs = zone === undefined ? zoneOffsetMs(asUtcMs, timeZone) : writtenOffsetMs(zone);
  return asUtcMs - offsetMs + Number(fraction.slice(0, 3).padEnd(3, '0'));
}

function writtenOffsetMs(zone: string): number {
  if (zone.toUpperCase() === 'Z') return 0;
  const minutes = Number(zone.slice(1, 3)) * 60 + Number(zone.slice(-2));
  return (zone.startsWith('-') ? -minutes : minutes) * 60_000;
}

/** How far the clock of the zone is ahead of UTC when it shows this. In the hour that a change of the clock shows twice: one of the two. */
function zoneOffsetMs(shownMs: number, timeZone: string): number {
  if (timeZone === 'UTC') return 0;
  const offsetAt = (ms: number): number => Date.parse(`${localTime(ms, timeZone).replace(' ', 'T')}Z`) - ms;
  return offsetAt(shownMs - offsetAt(shownMs));
}

/** One formatter per time zone; a fleet knows few. Beyond the bound they are made anew each time. */
const formatters = new Map<string, Intl.DateTimeFormat>();
const MAX_FORMATTERS = 64;

/** `YYYY-MM-DD HH:MM:SS` on the clock of the time zone. */
export function localTime(nowMs: number, timeZone: string): string {
  if (timeZone === 'UTC') return new Date(nowMs).toISOString().slice(0, 19).replace('T', ' ');
  let formatter = formatters.get(timeZone);
  if (formatter === undefined) {
    // Swedish writes dates the ISO way.
    formatter = new Intl.DateTimeFormat('sv-SE', { timeZone, dateStyle: 'short', timeStyle: 'medium' });
    if (formatters.size < MAX_FORMATTERS) formatters.set(timeZone, formatter);
  }
  return formatter.format(nowMs);
}
