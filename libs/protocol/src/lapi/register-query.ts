/** Answers "which step of the registration is this, and with which values?" (protocol H2, 2.5, G1, G6; rows F3, F5, F6, F15).
 *  Works on the raw query: values become bytes, never text first, so that values in a foreign charset verify (G1). A stray `%`
 *  stays literal, `+` stays `+`. Names match exactly first, then in any letter case; unknown parameters are ignored.
 *  The nonce's shape is checked with its origin (F7), the Sign's with its bytes (F11). Pure. */

import { type DeviceCode, isDeviceCode } from '../id.ts';

/** One value, before and after percent-decoding. */
export interface RegisterValue {
  readonly raw: Buffer;
  readonly decoded: Buffer;
}

/** Syntactically sound, not verified. */
export interface RegisterStep2 {
  readonly status: 'step2';
  readonly code: DeviceCode;
  readonly vendor: RegisterValue;
  readonly deviceType: RegisterValue;
  readonly deviceCode: RegisterValue;
  /** Undefined if the parameter is missing, which is not the same as empty (G3). */
  readonly algorithm: RegisterValue | undefined;
  readonly nonce: RegisterValue;
  /** Printable ASCII; empty if missing. */
  readonly cnonce: string;
  /** As received, undecoded (G4). */
  readonly sign: string;
  /** Was there a SessionID? Ignored and counted (2.5). */
  readonly sessionIdSeen: boolean;
}

export type RegisterQuery =
  | { readonly status: 'step1' }
  | RegisterStep2
  | { readonly status: 'rejected'; readonly reason: 'query_too_long' | 'bad_param' | 'duplicate_param' };

export const QUERY_BYTES = 2048;
const NAME_BYTES = 64;
const CNONCE = /^[\x20-\x7e]{0,64}$/;
const ALGORITHM = /^[A-Za-z0-9_.-]{0,32}$/;
const SIGN_CHARACTERS = 256;

const NAMES = ['Vendor', 'DeviceType', 'DeviceCode', 'Algorithm', 'Nonce', 'Cnonce', 'Sign', 'SessionID'] as const;
type Name = (typeof NAMES)[number];
const FOLDED: readonly string[] = NAMES.map((name) => name.toLowerCase());

const SESSION_ID = NAMES.indexOf('SessionID');

const STEP_1: RegisterQuery = { status: 'step1' };

function rejected(reason: 'query_too_long' | 'bad_param' | 'duplicate_param'): RegisterQuery {
  return { status: 'rejected', reason };
}

/** `query` is what follows the first `?`; undefined if there is none. */
export function readRegisterQuery(query: string | undefined): RegisterQuery {
  if (query === undefined || query === '') return STEP_1;
  if (Buffer.byteLength(query) > QUERY_BYTES) return rejected('query_too_long');

  // Values by place of their name in NAMES: those whose name is spelled exactly, and the others.
  const exact: (string[] | undefined)[] = [];
  const folded: (string[] | undefined)[] = [];
  for (const part of query.split('&')) {
    const equals = part.indexOf('=');
    const name = equals === -1 ? part : part.slice(0, equals);
    const value = equals === -1 ? '' : part.slice(equals + 1);
    const place = (NAMES as readonly string[]).indexOf(name);
    if (place === -1) append(folded, FOLDED.indexOf(name.toLowerCase()), value);
    else append(exact, place, value);
  }

  let duplicate = false;
  const parameter = (name: Name): RegisterValue | undefined => {
    const place = NAMES.indexOf(name);
    const values = exact[place] ?? folded[place];
    if (values === undefined) return undefined;
    const first = registerValue(values[0] as string);
    for (let i = 1; i < values.length; i++) {
      if (!registerValue(values[i] as string).decoded.equals(first.decoded)) duplicate = true;
    }
    return first;
  };
  const vendor = parameter('Vendor');
  const deviceType = parameter('DeviceType');
  const deviceCode = parameter('DeviceCode');
  const nonce = parameter('Nonce');
  const sign = parameter('Sign');
  const algorithm = parameter('Algorithm');
  const cnonce = parameter('Cnonce');

  if (duplicate) return rejected('duplicate_param');
  if (!filled(vendor) || !filled(deviceType) || !filled(deviceCode) || !filled(nonce) || !filled(sign)) return STEP_1;

  const code = deviceCode.decoded.toString('latin1');
  const cnonceText = cnonce?.decoded.toString('latin1') ?? '';
  const signText = sign.raw.toString('latin1');
  const sound =
    isMakerName(vendor.decoded) &&
    isMakerName(deviceType.decoded) &&
    isDeviceCode(code) &&
    (algorithm === undefined || ALGORITHM.test(algorithm.decoded.toString('latin1'))) &&
    CNONCE.test(cnonceText) &&
    signText.length <= SIGN_CHARACTERS;
  if (!sound) return rejected('bad_param');

  return {
    status: 'step2',
    code,
    vendor,
    deviceType,
    deviceCode,
    algorithm,
    nonce,
    cnonce: cnonceText,
    sign: signText,
    sessionIdSeen: (exact[SESSION_ID] ?? folded[SESSION_ID]) !== undefined,
  };
}

/** -1 = a name that nobody asks for. */
function append(lists: (string[] | undefined)[], place: number, value: string): void {
  if (place === -1) return;
  const values = lists[place];
  if (values === undefined) lists[place] = [value];
  else values.push(value);
}

function registerValue(text: string): RegisterValue {
  const raw = Buffer.from(text);
  return { raw, decoded: percentDecode(raw) };
}

function filled(value: RegisterValue | undefined): value is RegisterValue {
  return value !== undefined && value.raw.length > 0;
}

/** Vendor and DeviceType: 1–64 bytes, no control characters, no `/` (the signed text is joined with it and not escaped, G6).
 *  Bytes from 0x80 on are allowed: makers' names come in UTF-8 and in GBK. */
function isMakerName(bytes: Buffer): boolean {
  if (bytes.length > NAME_BYTES) return false;
  for (const byte of bytes) if (byte < 0x20 || byte === 0x7f || byte === 0x2f) return false;
  return true;
}

function hexDigit(byte: number | undefined): number {
  if (byte === undefined) return -1;
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1;
}

/** To bytes: `%` with two hex digits is a byte, any other `%` stays, `+` stays. */
export function percentDecode(raw: Buffer): Buffer {
  if (!raw.includes(0x25)) return raw;
  const decoded = Buffer.allocUnsafe(raw.length);
  let length = 0;
  for (let at = 0; at < raw.length; at++) {
    const high = raw[at] === 0x25 ? hexDigit(raw[at + 1]) : -1;
    const low = high === -1 ? -1 : hexDigit(raw[at + 2]);
    if (low === -1) decoded[length++] = raw[at] as number;
    else {
      decoded[length++] = high * 16 + low;
      at += 2;
    }
  }
  return decoded.subarray(0, length);
}
