import fc from 'fast-check';
import { expect, test } from 'vitest';
import { percentDecode, type RegisterStep2, readRegisterQuery } from './register-query.ts';

const GOOD = {
  Vendor: 'Uniview',
  DeviceType: 'NVR',
  DeviceCode: '210235TEST0000000001',
  Algorithm: 'HMAC-SHA256',
  Nonce: '28gQiAb3Z6PJq9Jm',
  Cnonce: 'zY9xW8vU7tS6rQ5p',
  Sign: 'UtUw7ZZSBf2QEXJiGCKqNzE1Hw%2F0koM0dGECxoraE6Y%3D',
};

function query(changes: Partial<Record<keyof typeof GOOD, string | undefined>> = {}): string {
  const entries = Object.entries({ ...GOOD, ...changes }).filter(([, value]) => value !== undefined);
  return entries.map(([name, value]) => `${name}=${value}`).join('&');
}

function step2(text: string): RegisterStep2 {
  const result = readRegisterQuery(text);
  if (result.status !== 'step2') throw new Error(JSON.stringify(result));
  return result;
}

function outcome(text: string | undefined): string {
  const result = readRegisterQuery(text);
  return result.status === 'rejected' ? result.reason : result.status;
}

test('reads the query of 2.3', () => {
  const result = step2(query());
  expect(result).toMatchObject({ code: GOOD.DeviceCode, cnonce: GOOD.Cnonce, sign: GOOD.Sign, sessionIdSeen: false });
  expect(String(result.vendor.decoded)).toBe('Uniview');
  expect(String(result.algorithm?.decoded)).toBe('HMAC-SHA256');
});

test('no query, a bare question mark, or a missing or empty required parameter is step 1 (H2, H8, L8)', () => {
  for (const text of [undefined, '', 'X=1', '&', '=', 'Vendor', '&&a&=b']) expect(outcome(text)).toBe('step1');
  for (const name of ['Vendor', 'DeviceType', 'DeviceCode', 'Nonce', 'Sign'] as const) {
    expect(outcome(query({ [name]: undefined }))).toBe('step1');
    expect(outcome(query({ [name]: '' }))).toBe('step1');
  }
});

test('Algorithm and Cnonce are optional; a missing Algorithm is told from an empty one (2.5, G3)', () => {
  expect(step2(query({ Algorithm: undefined, Cnonce: undefined }))).toMatchObject({ algorithm: undefined, cnonce: '' });
  expect(step2(query({ Algorithm: '' })).algorithm?.decoded.length).toBe(0);
});

test('names match exactly first, then in any letter case; order and unknown parameters do not matter (2.5)', () => {
  const reversed = query().split('&').reverse().join('&');
  expect(step2(`${reversed}&Extra=%zz&sessionid=4`)).toMatchObject({ code: GOOD.DeviceCode, sessionIdSeen: true });
  expect(step2(query().replace('Vendor=', 'vendor=').replace('DeviceCode', 'DEVICECODE')).code).toBe(GOOD.DeviceCode);
  expect(String(step2(`vendor=Other&${query()}`).vendor.decoded)).toBe('Uniview');
});

test('a duplicate with the same value is accepted, with another one refused (F6)', () => {
  expect(outcome(`${query()}&Vendor=Uniview`)).toBe('step2');
  expect(outcome(`${query()}&Vendor=%55niview`)).toBe('step2');
  expect(outcome(`${query()}&Vendor=Other`)).toBe('duplicate_param');
  expect(outcome(`${query()}&Cnonce=x`)).toBe('duplicate_param');
  expect(outcome(`${query()}&Other=1&Other=2`)).toBe('step2');
  expect(outcome(`${query({ Vendor: undefined })}&vendor=A&VENDOR=B`)).toBe('duplicate_param');
});

test('parameters outside the limits of 2.5 are refused (F5)', () => {
  const bad: Partial<Record<keyof typeof GOOD, string>>[] = [
    { Vendor: 'A'.repeat(65) },
    { Vendor: 'A/B' },
    { Vendor: 'A%2FB' },
    { Vendor: 'A%0AB' },
    { Vendor: 'A%7F' },
    { DeviceType: '%00' },
    { DeviceType: 'a/b' },
    { DeviceCode: 'A'.repeat(65) },
    { DeviceCode: 'A+B' },
    { DeviceCode: '%D3%EE' },
    { Algorithm: 'A'.repeat(33) },
    { Algorithm: 'HMAC/SHA' },
    { Algorithm: 'HMAC%20SHA' },
    { Cnonce: 'a'.repeat(65) },
    { Cnonce: '%0A' },
    { Cnonce: '%C3%A9' },
    { Sign: 'A'.repeat(257) },
  ];
  for (const change of bad) expect([change, outcome(query(change))]).toEqual([change, 'bad_param']);
  const good: Partial<Record<keyof typeof GOOD, string>>[] = [
    { Vendor: 'A'.repeat(64) },
    { Vendor: '%41'.repeat(64) },
    { Vendor: '%D3%EE%CA%D3' },
    { DeviceCode: `a._:-${'Z'.repeat(59)}` },
    { Algorithm: 'A'.repeat(32) },
    { Cnonce: '%20~'.repeat(32) },
    { Sign: '%'.repeat(256) },
    { Nonce: 'any shape: its origin is checked elsewhere' },
  ];
  for (const change of good) expect([change, outcome(query(change))]).toEqual([change, 'step2']);
});

test('2048 bytes of query are read, 2049 are not, counted in UTF-8 (F15)', () => {
  const filled = (bytes: number): string => `${query()}&X=`.padEnd(bytes, 'x');
  expect(outcome(filled(2048))).toBe('step2');
  expect(outcome(filled(2049))).toBe('query_too_long');
  expect(outcome(`X=${'é'.repeat(1023)}`)).toBe('step1');
  expect(outcome(`X=${'é'.repeat(1024)}`)).toBe('query_too_long');
});

test('values are decoded to bytes: a stray % stays, + stays, foreign charsets survive (G1)', () => {
  const decode = (text: string): string => percentDecode(Buffer.from(text)).toString('latin1');
  expect(decode('%D3%ee%CA%d3')).toBe('\xd3\xee\xca\xd3');
  expect(decode('a+b%2Bc')).toBe('a+b+c');
  expect(decode('%')).toBe('%');
  expect(decode('%4')).toBe('%4');
  expect(decode('%4g%zz%%41')).toBe('%4g%zz%A');
  expect(decode('%2541')).toBe('%41');
});

test('decoding inverts encodeURIComponent', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(percentDecode(Buffer.from(encodeURIComponent(text))).toString()).toBe(text);
    }),
  );
});

test('never throws, whatever the query', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.string({ unit: 'binary' }).map((text) => query({ Vendor: text })),
      ),
      (text) => {
        readRegisterQuery(text);
      },
    ),
    { numRuns: 2000 },
  );
});
