import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { createNonceIssuer } from './nonce.ts';

const KEY = 'nonce-key-for-tests';
const PREVIOUS = 'nonce-key-previous';
const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/** A source whose draw yields these four digits. */
function drawing(digits: string): (size: number) => Buffer {
  let value = 0;
  for (const digit of digits) value = value * 62 + DIGITS.indexOf(digit);
  return (size) => {
    const bytes = Buffer.alloc(size);
    bytes.writeUIntBE(value, 0, size);
    return bytes;
  };
}

const VECTORS = [
  [1735689600, 'Ab3Z', '28gQiAb3Z6PJq9Jm', KEY],
  [1767225600, 'Q7xK', '4H0NsQ7xKfqQlp64', KEY],
  [1735689661, '0000', '28gRh0000oDJiMNs', KEY],
  [1893456000, 'aB09', 'Coeg4aB09ylkGTln', KEY],
  [1704067200, 'zzzz', '00000zzzzU82pcmz', KEY],
  [1735689600, 'Ab3Z', '28gQiAb3ZcbBI6QF', PREVIOUS],
] as const;

const issuer = createNonceIssuer({ currentKey: KEY, previousKey: PREVIOUS, ttlS: 120 });

test.each(VECTORS)('issues and verifies the vector of 4.5 for t=%i R=%s (L3)', (t, r, nonce, key) => {
  expect(createNonceIssuer({ currentKey: key, ttlS: 120 }).issue(t * 1000, drawing(r))).toBe(nonce);
  expect(issuer.verify(nonce, t * 1000)).toBe('valid');
});

test('age limits are −5 s and the TTL, in whole seconds (4.2, L3)', () => {
  const at = (nowS: number): string => issuer.verify('28gQiAb3Z6PJq9Jm', nowS * 1000);
  expect(at(1735689720)).toBe('valid');
  expect(at(1735689720.999)).toBe('valid');
  expect(at(1735689721)).toBe('nonce_expired');
  expect(at(1735689595)).toBe('valid');
  expect(at(1735689594)).toBe('nonce_foreign');
});

test('any other character at any place makes it foreign, as does another length or key (4.2, F7, L3)', () => {
  const nonce = '28gQiAb3Z6PJq9Jm';
  const nowMs = 1735689600_000;
  expect(issuer.verify('28gQiAb3Z6PJq9Jn', nowMs)).toBe('nonce_foreign');
  for (let i = 0; i < nonce.length; i++) {
    const other = nonce[i] === 'x' ? 'y' : 'x';
    expect(issuer.verify(nonce.slice(0, i) + other + nonce.slice(i + 1), nowMs)).toBe('nonce_foreign');
  }
  for (const text of [
    '',
    nonce.slice(1),
    `${nonce}0`,
    `${nonce}\n`,
    nonce.replace('8', '-'),
    nonce.replace('8', 'é'),
  ]) {
    expect(issuer.verify(text, nowMs)).toBe('nonce_foreign');
  }
  expect(createNonceIssuer({ currentKey: 'another key', ttlS: 120 }).verify(nonce, nowMs)).toBe('nonce_foreign');
});

test('the previous key verifies but no longer issues (4.3)', () => {
  expect(issuer.issue(1735689600_000, drawing('Ab3Z'))).toBe('28gQiAb3Z6PJq9Jm');
  expect(createNonceIssuer({ currentKey: KEY, ttlS: 120 }).verify('28gQiAb3ZcbBI6QF', 1735689600_000)).toBe(
    'nonce_foreign',
  );
});

test('a nonce of ours is recognised at any age, so that a Cnonce can be refused (reflection)', () => {
  expect(issuer.isOwn('28gQiAb3Z6PJq9Jm')).toBe(true);
  expect(issuer.isOwn('28gQiAb3ZcbBI6QF')).toBe(true);
  expect(issuer.isOwn('zY9xW8vU7tS6rQ5p')).toBe(false);
});

test('what is issued from real random bytes verifies, and no two are alike', () => {
  const nowMs = Date.UTC(2026, 0, 1);
  const nonces = Array.from({ length: 500 }, () => issuer.issue(nowMs, randomBytes));
  for (const nonce of nonces) expect(issuer.verify(nonce, nowMs)).toBe('valid');
  // 500 draws of 62⁴: a handful of repeats would already be a broken source.
  expect(new Set(nonces).size).toBeGreaterThan(495);
});

test('draws above the largest multiple of 62⁴ are refused, not folded; a source of nothing else is an error (no modulo bias)', () => {
  const draws = [Buffer.alloc(6, 0xff), Buffer.alloc(6, 0)];
  const nonce = issuer.issue(1735689600_000, () => draws.shift() ?? Buffer.alloc(6, 0xff));
  expect(nonce.slice(5, 9)).toBe('0000');
  expect(() => issuer.issue(1735689600_000, () => Buffer.alloc(6, 0xff))).toThrow('random source');
});

test('an empty key is refused', () => {
  expect(() => createNonceIssuer({ currentKey: '', ttlS: 120 })).toThrow('empty');
});
