/** When a cron expression is due, also where clocks change and months end; checked against walking through every minute. */

import { describe, expect, test } from 'vitest';
import { nextFiring, timetableProblem } from './cron.ts';

const MINUTE_MS = 60_000;

function firings(cron: string, timeZone: string, after: string, count: number): string[] {
  const found: string[] = [];
  let atMs = Date.parse(after);
  while (found.length < count) {
    atMs = nextFiring({ cron, timeZone }, atMs);
    found.push(new Date(atMs).toISOString().replace(':00.000Z', 'Z'));
  }
  return found;
}

describe('where clocks go forward', () => {
  test('a time of day that does not exist is due at the first moment after it, once', () => {
    expect(firings('30 2 * * *', 'Europe/Berlin', '2027-03-26T12:00:00Z', 3)).toEqual([
      '2027-03-27T01:30Z',
      '2027-03-28T01:00Z',
      '2027-03-29T00:30Z',
    ]);
    expect(firings('0,15,30 2,3 * * *', 'Europe/Berlin', '2027-03-28T00:00:00Z', 3)).toEqual([
      '2027-03-28T01:00Z',
      '2027-03-28T01:15Z',
      '2027-03-28T01:30Z',
    ]);
  });

  test('a midnight that does not exist is due at the begin of that day', () => {
    expect(firings('0 0 * * *', 'America/Santiago', '2027-09-03T12:00:00Z', 3)).toEqual([
      '2027-09-04T04:00Z',
      '2027-09-05T04:00Z',
      '2027-09-06T03:00Z',
    ]);
  });

  test('a change of half an hour is no exception', () => {
    expect(firings('15 2 * * *', 'Australia/Lord_Howe', '2027-10-01T00:00:00Z', 3)).toEqual([
      '2027-10-01T15:45Z',
      '2027-10-02T15:30Z',
      '2027-10-03T15:15Z',
    ]);
  });

  test('every hour goes by the hours that pass', () => {
    expect(firings('15 * * * *', 'Europe/Berlin', '2027-03-28T00:00:00Z', 3)).toEqual([
      '2027-03-28T00:15Z',
      '2027-03-28T01:15Z',
      '2027-03-28T02:15Z',
    ]);
  });
});

describe('where clocks go back', () => {
  test('a time of day that comes twice is due the first time', () => {
    expect(firings('30 2 * * *', 'Europe/Berlin', '2027-10-29T12:00:00Z', 3)).toEqual([
      '2027-10-30T00:30Z',
      '2027-10-31T00:30Z',
      '2027-11-01T01:30Z',
    ]);
  });

  test('it is not due again when asked between the two', () => {
    expect(firings('30 2 * * *', 'Europe/Berlin', '2027-10-31T01:10:00Z', 1)).toEqual(['2027-11-01T01:30Z']);
  });

  test('every hour goes by the hours that pass', () => {
    expect(firings('*/30 * * * *', 'Europe/Berlin', '2027-10-30T23:50:00Z', 6)).toEqual([
      '2027-10-31T00:00Z',
      '2027-10-31T00:30Z',
      '2027-10-31T01:00Z',
      '2027-10-31T01:30Z',
      '2027-10-31T02:00Z',
      '2027-10-31T02:30Z',
    ]);
  });
});

describe('ends of months', () => {
  test('the 31st is due in months that have one', () => {
    expect(firings('0 0 31 * *', 'UTC', '2027-01-30T00:00:00Z', 4)).toEqual([
      '2027-01-31T00:00Z',
      '2027-03-31T00:00Z',
      '2027-05-31T00:00Z',
      '2027-07-31T00:00Z',
    ]);
  });

  test('the 29th of February is due in leap years', () => {
    expect(firings('0 12 29 2 *', 'UTC', '2027-01-01T00:00:00Z', 2)).toEqual([
      '2028-02-29T12:00Z',
      '2032-02-29T12:00Z',
    ]);
  });

  test('the first of a month is that of the zone', () => {
    expect(firings('0 0 1 * *', 'Pacific/Auckland', '2027-01-15T00:00:00Z', 2)).toEqual([
      '2027-01-31T11:00Z',
      '2027-02-28T11:00Z',
    ]);
  });

  test('day of month and day of week are alternatives where both are given', () => {
    expect(firings('0 0 13 * FRI', 'UTC', '2027-01-01T01:00:00Z', 3)).toEqual([
      '2027-01-08T00:00Z',
      '2027-01-13T00:00Z',
      '2027-01-15T00:00Z',
    ]);
  });
});

interface Minute {
  readonly ms: number;
  readonly day: number;
  /** Of that day, as the clocks show it. */
  readonly minute: number;
}

function minutesOf(timeZone: string, fromMs: number, toMs: number): Minute[] {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
  });
  return Array.from({ length: (toMs - fromMs) / MINUTE_MS + 1 }, (_, i) => {
    const ms = fromMs + i * MINUTE_MS;
    const {
      day = 0,
      hour = 0,
      minute = 0,
    } = Object.fromEntries(format.formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
    return { ms, day, minute: hour * 60 + minute };
  });
}

/** By the definition: looks at each minute after the first. */
function walk(hours: ReadonlySet<number>, minutes: ReadonlySet<number>, [first, ...rest]: Minute[]): number[] {
  const isHourly = hours.size === 24;
  const wanted = (minute: number): boolean => hours.has(Math.floor(minute / 60)) && minutes.has(minute % 60);
  let { day, minute: highest } = first ?? { day: 0, minute: 0 };
  return rest.flatMap(({ ms, day: today, minute }) => {
    const skipped: number[] = [];
    if (today !== day) {
      for (let each = highest + 1; each < 1_440; each++) skipped.push(each);
      highest = -1;
      day = today;
    }
    for (let each = highest + 1; each < minute; each++) skipped.push(each);
    const isAgain = minute <= highest;
    highest = Math.max(highest, minute);
    if (isHourly) return wanted(minute) ? [ms] : [];
    return (wanted(minute) && !isAgain) || skipped.some(wanted) ? [ms] : [];
  });
}

describe('every moment of the days around a change is found, and no other', () => {
  const changes: readonly [string, string][] = [
    ['Europe/Berlin', '2027-03-28'],
    ['Europe/Berlin', '2027-10-31'],
    ['America/Santiago', '2027-09-05'],
    ['America/Santiago', '2027-04-04'],
    ['Australia/Lord_Howe', '2027-10-03'],
    ['Australia/Lord_Howe', '2027-04-04'],
    ['America/New_York', '2027-11-07'],
    ['Asia/Kathmandu', '2027-05-05'],
  ];
  test.each(changes)('%s %s', (timeZone, date) => {
    const toMs = Date.parse(date) + 2 * 86_400_000;
    const fromMs = Date.parse(date) - 86_400_000;
    const all = minutesOf(timeZone, fromMs, toMs);
    for (const [minuteField, hourField] of [
      ['*/30', '*'],
      ['7', '*'],
      ['0,59', '*/2'],
      ['30', '2'],
      ['15,45', '0-3'],
      ['0', '0'],
      ['*/20', '1,2,23'],
    ] as const) {
      const expected = walk(valuesOf(hourField, 24), valuesOf(minuteField, 60), all);
      const found: number[] = [];
      for (let atMs = fromMs; ; ) {
        atMs = nextFiring({ cron: `${minuteField} ${hourField} * * *`, timeZone }, atMs);
        if (atMs > toMs) break;
        found.push(atMs);
      }
      expect(
        found.map((ms) => new Date(ms).toISOString()),
        `${minuteField} ${hourField}`,
      ).toEqual(expected.map((ms) => new Date(ms).toISOString()));
    }
  });
});

/** `*`, steps, `a-b` and lists. */
function valuesOf(field: string, size: number): ReadonlySet<number> {
  const all = Array.from({ length: size }, (_, value) => value);
  const step = /^\*\/(\d+)$/.exec(field)?.[1];
  const range = /^(\d+)-(\d+)$/.exec(field);
  if (field === '*') return new Set(all);
  if (step !== undefined) return new Set(all.filter((value) => value % Number(step) === 0));
  if (range !== null) return new Set(all.filter((value) => value >= Number(range[1]) && value <= Number(range[2])));
  return new Set(field.split(',').map(Number));
}

describe('what is no timetable is refused with what is expected', () => {
  test.each([
    '',
    '* * * *',
    '* * * * * *',
    '60 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '* * * 13 *',
    '* * * * 8',
    '*/0 * * * *',
    '10-5 * * * *',
    'a b c d e',
    '@daily',
    'H * * * *',
    '0 0 L * *',
    '0 0 * * 1#2',
    '0 0 ? * *',
    '0 0 30 2 *',
    '0  0 * * *',
    '5* * * * *',
    '*5 * * * *',
    '1-2-3 * * * *',
    '*/2/3 * * * *',
    '5,,6 * * * *',
    '0 0 * MON *',
    '0 0 * * JAN',
    'JAN * * * *',
    `${'0,'.repeat(80)}0 * * * *`,
  ])('cron "%s"', (cron) => {
    expect(timetableProblem({ cron, timeZone: 'UTC' })).toEqual({
      path: 'cron',
      problem: expect.stringContaining('five fields'),
    });
  });

  test.each(['', 'Europe/Nowhere', '+02:00', 'UTC+2', 'x'.repeat(100), '../etc'])('time zone "%s"', (timeZone) => {
    expect(timetableProblem({ cron: '0 0 * * *', timeZone })).toEqual({
      path: 'timeZone',
      problem: expect.stringContaining('Europe/Berlin'),
    });
  });

  test.each([
    '* * * * *',
    '*/5 8-17 * * MON-FRI',
    '1/5,8,30-40/4 0,12 * * *',
    '0 0 1 jan,Mar-may/2 *',
    '0 0 * * 7',
    '0 0 29 2 *',
  ])('cron "%s" is one', (cron) => {
    expect(timetableProblem({ cron, timeZone: 'Asia/Shanghai' })).toBeUndefined();
  });
});
