import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { deviceTime, localTime } from './device-time.ts';

const RECEIVED_MS = Date.UTC(2026, 6, 1, 12, 0, 0, 500);
const read = (text: string, timeZone = 'UTC'): string =>
  new Date(deviceTime(text, RECEIVED_MS, timeZone)).toISOString();
const RECEIPT = new Date(RECEIVED_MS).toISOString();

describe('the time of an event', () => {
  test.each([
    ['1782907199', '2026-07-01T11:59:59.000Z'],
    ['1782907199.25', '2026-07-01T11:59:59.250Z'],
    ['1782907199123', '2026-07-01T11:59:59.123Z'],
    ['20260701115959', '2026-07-01T11:59:59.000Z'],
    ['20260701115959123', '2026-07-01T11:59:59.123Z'],
    [' 2026-07-01 11:59:59 ', '2026-07-01T11:59:59.000Z'],
    ['2026/07/01 11:59:59', '2026-07-01T11:59:59.000Z'],
    ['2026-07-01T11:59:59.1', '2026-07-01T11:59:59.100Z'],
    ['2026-07-01T13:59:59+02:00', '2026-07-01T11:59:59.000Z'],
    ['2026-07-01T06:29:59-0530', '2026-07-01T11:59:59.000Z'],
    ['20260701115959z', '2026-07-01T11:59:59.000Z'],
    ['946684800', '2000-01-01T00:00:00.000Z'],
  ])('%s is read', (text, expected) => {
    expect(read(text)).toBe(expected);
  });

  test('is on the clock of the given zone where the text names none, in winter and in summer', () => {
    expect(read('20260701135959', 'Europe/Berlin')).toBe('2026-07-01T11:59:59.000Z');
    expect(read('2026-01-01 12:59:59', 'Europe/Berlin')).toBe('2026-01-01T11:59:59.000Z');
    expect(read('20260701195959', 'Asia/Shanghai')).toBe('2026-07-01T11:59:59.000Z');
    expect(read('2026-07-01T11:59:59Z', 'Asia/Shanghai')).toBe('2026-07-01T11:59:59.000Z');
    expect(read('1782907199', 'Asia/Shanghai')).toBe('2026-07-01T11:59:59.000Z');
  });

  test('is right beside a change of the clock, and one of two in the hour that comes twice', () => {
    expect(read('20260329015959', 'Europe/Berlin')).toBe('2026-03-29T00:59:59.000Z');
    expect(read('20260329030000', 'Europe/Berlin')).toBe('2026-03-29T01:00:00.000Z');
    expect(['2025-10-26T00:30:00.000Z', '2025-10-26T01:30:00.000Z']).toContain(read('20251026023000', 'Europe/Berlin'));
  });

  test.each([
    '',
    '0',
    '-1',
    'yesterday',
    '12:00',
    '2026-02-31 00:00:00',
    '20261301000000',
    '20260701246161',
    '1e12',
    'true',
    '99999999999999999999',
  ])('that nobody can read is the time of receipt: %s', (text) => {
    expect(read(text)).toBe(RECEIPT);
  });

  test('that cannot be true is the time of receipt: before 2000, or more than a day ahead', () => {
    expect(read('946684799')).toBe(RECEIPT);
    expect(read('19700101000010')).toBe(RECEIPT);
    expect(read(String(RECEIVED_MS + 86_400_000))).toBe('2026-07-02T12:00:00.500Z');
    expect(read(String(RECEIVED_MS + 86_400_001))).toBe(RECEIPT);
  });

  test('is a whole, plausible number of milliseconds whatever the device writes', () => {
    const digits = fc.stringMatching(/^[0-9T:Z +./-]{0,30}$/);
    fc.assert(
      fc.property(fc.oneof(fc.string(), digits), fc.constantFrom('UTC', 'America/St_Johns'), (text, zone) => {
        const ms = deviceTime(text, RECEIVED_MS, zone);
        expect(Number.isSafeInteger(ms)).toBe(true);
        expect(ms).toBeGreaterThanOrEqual(946_684_800_000);
        expect(ms).toBeLessThanOrEqual(RECEIVED_MS + 86_400_000);
      }),
    );
  });
});

test('local time follows the time zone through daylight saving', () => {
  expect(localTime(Date.UTC(2025, 6, 1, 23, 5, 9), 'Europe/Berlin')).toBe('2025-07-02 01:05:09');
  expect(localTime(Date.UTC(2025, 0, 1, 23, 5, 9), 'Europe/Berlin')).toBe('2025-01-02 00:05:09');
});
