/** Answers "does this Sign prove knowledge of a device secret, and of which?" (protocol 3)
 *      Sign = base64( HMAC-SHA256( secret, Vendor "/" DeviceType "/" DeviceCode "/" Algorithm "/" Nonce ) )
 *  The method is HMAC-SHA256 whatever `Algorithm` says (G3). For one query every call does the same work, two keys × all texts,
 *  whether the device is known, has one secret or two, and whatever matches (G5, S4): missing secrets are replaced by the random
 *  key of the process, which matches nothing. Comparison is in constant time on bytes. Nothing is thrown, logged or kept. */

import { createHmac, timingSafeEqual } from 'node:crypto';
import { percentDecode, type RegisterStep2, type RegisterValue } from './register-query.ts';

/** The parts of the query that are signed or are the signature. */
export type SignedQuery = Pick<RegisterStep2, 'vendor' | 'deviceType' | 'deviceCode' | 'algorithm' | 'nonce' | 'sign'>;

/** How the values had to be read for the signature to match: as G1 says, undecoded (G2 a), or with `+` as a blank (G2 b). */
export type SignReading = 'decoded' | 'raw' | 'plus_as_blank';

export interface VerifiedSign {
  readonly status: 'verified';
  /** Index of the matching secret; 0 if both match. */
  readonly secret: number;
  /** Recomputed, padded standard base64 (A4). */
  readonly sign: string;
  readonly reading: SignReading;
  /** True if the parameter was missing and the signed text had no place for it (G3). */
  readonly algorithmLeftOut: boolean;
  /** `Vendor/DeviceType/DeviceCode[/Algorithm]/` as signed, for `resignFor`. */
  readonly prefix: Buffer;
}

/** `bad_sign_format` is F11, `bad_sign` is F12; both cost the same. */
export type SignVerdict = VerifiedSign | { readonly status: 'bad_sign' | 'bad_sign_format' };

/** `current` and `next` (G7). */
const KEYS = 2;
const MAC_BYTES = 32;
const MAC_BASE64 = /^[A-Za-z0-9+/]{43}=$/;

/** `secrets`: at most two, none for an unknown or disabled device (F10). `randomKey`: drawn once per process, 32 bytes. */
export function verifySign(
  query: SignedQuery,
  secrets: readonly (string | Uint8Array)[],
  randomKey: Uint8Array,
): SignVerdict {
  const candidates = signCandidates(query.sign);
  const texts = signedTexts(query);
  let verified: VerifiedSign | undefined;
  for (let index = 0; index < KEYS; index++) {
    const secret = secrets[index];
    // An empty secret would let anyone sign.
    const usable = secret !== undefined && secret.length > 0;
    for (const { prefix, nonce, reading, algorithmLeftOut } of texts) {
      const mac = createHmac('sha256', usable ? secret : randomKey)
        .update(prefix)
        .update(nonce)
        .digest();
      let matched = false;
      for (const candidate of candidates) if (timingSafeEqual(mac, candidate)) matched = true;
      if (matched && usable && verified === undefined) {
        verified = {
          status: 'verified',
          secret: index,
          sign: mac.toString('base64'),
          reading,
          algorithmLeftOut,
          prefix,
        };
      }
    }
  }
  return verified ?? { status: candidates.length === 0 ? 'bad_sign_format' : 'bad_sign' };
}

/** Value of `Resign` under `resign=cnonce` (A5). `secret` is the one that verified. The caller first refuses a Cnonce that
 *  `NonceIssuer.isOwn`: this answer would be a valid Sign for it. */
export function resignFor(verified: VerifiedSign, secret: string | Uint8Array, cnonce: string): string {
  return createHmac('sha256', secret).update(verified.prefix).update(cnonce, 'latin1').digest('base64');
}

interface SignedText {
  readonly prefix: Buffer;
  readonly nonce: Buffer;
  readonly reading: SignReading;
  readonly algorithmLeftOut: boolean;
}

const EMPTY: RegisterValue = { raw: Buffer.alloc(0), decoded: Buffer.alloc(0) };
const SLASH = Buffer.from('/');

/** One to six texts: three readings (G2), each twice if `Algorithm` is missing (G3). */
function signedTexts(query: SignedQuery): SignedText[] {
  const { vendor, deviceType, deviceCode, algorithm, nonce } = query;
  const values = [vendor, deviceType, deviceCode, algorithm ?? EMPTY, nonce];
  const texts: SignedText[] = [];
  const add = (reading: SignReading, read: (value: RegisterValue) => Buffer): void => {
    const head = [read(vendor), SLASH, read(deviceType), SLASH, read(deviceCode), SLASH];
    const withAlgorithm = Buffer.concat([...head, read(algorithm ?? EMPTY), SLASH]);
    texts.push({ prefix: withAlgorithm, nonce: read(nonce), reading, algorithmLeftOut: false });
    if (algorithm !== undefined) return;
    texts.push({ prefix: Buffer.concat(head), nonce: read(nonce), reading, algorithmLeftOut: true });
  };
  const anyHas = (byte: number): boolean => values.some((value) => value.raw.includes(byte));
  add('decoded', (value) => value.decoded);
  if (anyHas(0x25)) add('raw', (value) => value.raw);
  if (anyHas(0x2b)) add('plus_as_blank', plusAsBlank);
  return texts;
}

/** As forms are read: `+` first, so that `%2B` stays a plus. */
function plusAsBlank(value: RegisterValue): Buffer {
  return percentDecode(Buffer.from(value.raw.map((byte) => (byte === 0x2b ? 0x20 : byte))));
}

/** The 32-byte values that `Sign` can mean: as received, decoded once, decoded twice (G4). */
function signCandidates(sign: string): Buffer[] {
  const candidates: Buffer[] = [];
  let text: Buffer = Buffer.from(sign, 'latin1');
  for (let decodings = 0; decodings <= 2; decodings++) {
    const candidate = macFromBase64(text.toString('latin1'));
    if (candidate !== undefined && !candidates.some((other) => other.equals(candidate))) candidates.push(candidate);
    const decoded = percentDecode(text);
    if (decoded === text) break;
    text = decoded;
  }
  return candidates;
}

/** Standard or URL alphabet, blanks for `+`, stray line breaks, padding optional. Anything else is refused: the runtime's decoder
 *  would skip it. */
function macFromBase64(text: string): Buffer | undefined {
  const padded = MAC_BASE64.test(text) ? text : standardBase64(text);
  if (padded === undefined) return undefined;
  const bytes = Buffer.from(padded, 'base64');
  return bytes.length === MAC_BYTES ? bytes : undefined;
}

function standardBase64(text: string): string | undefined {
  const standard = text
    .replace(/[\r\n]/g, '')
    .replace(/[ -]/g, '+')
    .replace(/_/g, '/');
  const padded = standard.endsWith('=') ? standard : `${standard}=`;
  return MAC_BASE64.test(padded) ? padded : undefined;
}
