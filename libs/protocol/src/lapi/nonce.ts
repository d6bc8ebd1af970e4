/** Answers "did this cluster issue this nonce, and is it fresh?" without shared state (protocol 4). `nonce = T(5) R(4) M(7)`,
 *  base 62, most significant digit first: time, random, keyed checksum. Any node verifies what any node issued; single use is
 *  the claim's business (4.4). It proves origin and age only, it is no credential. Clock and random source are parameters. */

import { createHmac, timingSafeEqual } from 'node:crypto';

export interface NonceKeys {
  /** At least 32 random bytes, the same on all nodes (4.3). */
  readonly currentKey: string | Uint8Array;
  /** Kept for TTL + 5 s after a rotation. */
  readonly previousKey?: string | Uint8Array;
  readonly ttlS: number;
}

/** `nonce_foreign` also covers a wrong shape and a time more than 5 s ahead (F7); `nonce_expired` is F8. */
export type NonceVerdict = 'valid' | 'nonce_foreign' | 'nonce_expired';

export interface NonceIssuer {
  issue(nowMs: number, randomBytes: (size: number) => Buffer): string;
  verify(nonce: string, nowMs: number): NonceVerdict;
  /** Made with one of our keys, whatever its age? With `resign=cnonce` such a Cnonce is refused: the answer would be a valid
   *  Sign for it. */
  isOwn(nonce: string): boolean;
}

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const SHAPE = /^[0-9A-Za-z]{16}$/;
const TIME_DIGITS = 5;
const RANDOM_DIGITS = 4;
const MAC_DIGITS = 7;
const HEAD = TIME_DIGITS + RANDOM_DIGITS;
/** 2024-01-01T00:00:00Z; five digits last until 2053-01-11. */
const EPOCH_S = 1704067200;
const AHEAD_S = 5;

const RANDOM_RANGE = 62 ** RANDOM_DIGITS;
/** Largest multiple of the range below 2^48: draws above it would favour low values. */
const RANDOM_LIMIT = Math.floor(2 ** 48 / RANDOM_RANGE) * RANDOM_RANGE;
/** One draw in 19 million is refused; a source that is refused this often is broken. */
const MAX_DRAWS = 8;

function toBase62(value: number, length: number): string {
  let text = '';
  for (let rest = value, i = 0; i < length; i++) {
    text = `${DIGITS[rest % 62]}${text}`;
    rest = Math.floor(rest / 62);
  }
  return text;
}

function fromBase62(text: string): number {
  let value = 0;
  for (const digit of text) value = value * 62 + DIGITS.indexOf(digit);
  return value;
}

function drawRandom(randomBytes: (size: number) => Buffer): number {
  for (let draw = 0; draw < MAX_DRAWS; draw++) {
    const value = randomBytes(6).readUIntBE(0, 6);
    if (value < RANDOM_LIMIT) return value % RANDOM_RANGE;
  }
  throw new Error('random source yields no usable bytes');
}

function macOf(key: string | Uint8Array, head: string): string {
  const mac = createHmac('sha256', key).update(`nonce1:${head}`).digest();
  return toBase62(mac.readUIntBE(0, 6) % 62 ** MAC_DIGITS, MAC_DIGITS);
}

export function createNonceIssuer({ currentKey, previousKey, ttlS }: NonceKeys): NonceIssuer {
  const keys = previousKey === undefined ? [currentKey] : [currentKey, previousKey];
  if (keys.some((key) => key.length === 0)) throw new Error('a nonce key is empty');

  const isOwn = (nonce: string): boolean => {
    if (!SHAPE.test(nonce)) return false;
    const head = nonce.slice(0, HEAD);
    const mac = Buffer.from(nonce.slice(HEAD), 'latin1');
    let matched = false;
    for (const key of keys) if (timingSafeEqual(mac, Buffer.from(macOf(key, head), 'latin1'))) matched = true;
    return matched;
  };

  return {
    isOwn,
    issue(nowMs, randomBytes) {
      const seconds = Math.max(0, Math.floor(nowMs / 1000) - EPOCH_S);
      const head = toBase62(seconds, TIME_DIGITS) + toBase62(drawRandom(randomBytes), RANDOM_DIGITS);
      return head + macOf(currentKey, head);
    },
    verify(nonce, nowMs) {
      if (!isOwn(nonce)) return 'nonce_foreign';
      const ageS = Math.floor(nowMs / 1000) - EPOCH_S - fromBase62(nonce.slice(0, TIME_DIGITS));
      if (ageS < -AHEAD_S) return 'nonce_foreign';
      return ageS > ttlS ? 'nonce_expired' : 'valid';
    },
  };
}
