/** Answers "is this text JSON within our bounds, and where are its members?" without building a single object of it.
 *  `scanJson` accepts exactly what JSON.parse accepts, less the bounds: nesting 64 (protocol E16), a count of keys (10,000).
 *  It runs once over the bytes in a loop, so neither depth nor size can exhaust the stack, and every byte is looked at a fixed
 *  number of times: hostile text costs the same per byte as honest text. `findMembers` walks text that passed `scanJson`.
 *  Long strings (pictures in base64) are crossed with the runtime's native search instead of byte by byte.
 *  Needs nothing, keeps nothing. Decoding values and deciding what a member means is not done here. */

/** Protocol E16: one container more is malformed. */
export const JSON_DEPTH = 64;
/** Keys of all objects of one message together. */
export const JSON_KEYS = 10_000;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const BLANK = 0x20;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const NOTHING = -1;

/** `control_in_string`: a raw byte below 0x20 inside a string; `tidyJson` can repair it (protocol 6.3, row 5). */
export type ScanFault = 'syntax' | 'control_in_string' | 'too_deep' | 'too_many_keys';

/** Byte positions of one member; `start`…`end` is the raw text of its value, `nameStart` the opening quote of its name. */
export interface Member {
  readonly nameStart: number;
  readonly start: number;
  readonly end: number;
  readonly exact: boolean;
}

/** One place per name of the MemberNames, in their order; empty if the object has no such member. */
export type Members = readonly (Member | undefined)[];

export type Scan =
  | {
      readonly status: 'ok';
      /** Are there tabs or line breaks between tokens? Then the text does not fit on one line (SSE) before `tidyJson`. */
      readonly layout: boolean;
      /** Members of the outermost object; all empty if the text is no object. */
      readonly members: Members;
    }
  | { readonly status: ScanFault };

/** Names to look for, compiled once. Folded names also match in other ASCII letter case, but the exact spelling wins. Of equal
 *  matches the last one wins, as in JSON.parse. */
export class MemberNames {
  readonly names: readonly string[];
  readonly #exact: readonly Uint8Array[];
  readonly #folded: readonly Uint8Array[] | undefined;
  readonly #longestBytes: number;

  constructor(names: readonly string[], spelling: 'exact' | 'folded') {
    this.names = names;
    this.#exact = names.map((name) => Buffer.from(name));
    this.#folded = spelling === 'folded' ? names.map((name) => Buffer.from(name.toLowerCase())) : undefined;
    this.#longestBytes = Math.max(0, ...this.#exact.map((name) => name.length));
  }

  /** Which of the names stands between the quotes? Its index, or −1. */
  indexOf(bytes: Buffer, start: number, end: number): number {
    const length = end - start;
    for (let i = 0; i < this.#exact.length; i++) {
      if ((this.#exact[i] as Uint8Array).length === length && this.#matches(i, bytes, start)) return i;
    }
    // `"Cs\u0065q"` is a legal spelling of `"Cseq"`: six bytes per character at most.
    if (length <= 6 * this.#longestBytes && hasByte(bytes, BACKSLASH, start, end)) {
      const name = Buffer.from(decodeString(bytes, start - 1, end + 1));
      if (!name.includes(BACKSLASH)) return this.indexOf(name, 0, name.length);
    }
    return NOTHING;
  }

  /** Is the name between the quotes, found by `indexOf`, spelled as given? */
  isExact(index: number, bytes: Buffer, start: number, end: number): boolean {
    const name = this.#exact[index] as Uint8Array;
    if (name.length !== end - start) return decodeString(bytes, start - 1, end + 1) === this.names[index];
    for (let i = 0; i < name.length; i++) if (name[i] !== bytes[start + i]) return false;
    return true;
  }

  #matches(index: number, bytes: Buffer, start: number): boolean {
    const exact = this.#exact[index] as Uint8Array;
    const folded = this.#folded?.[index];
    for (let i = 0; i < exact.length; i++) {
      const byte = bytes[start + i] as number;
      if (byte === exact[i]) continue;
      if (folded === undefined || (byte | 0x20) !== folded[i] || byte < 0x41) return false;
    }
    return true;
  }
}

const NO_NAMES = new MemberNames([], 'exact');

function hasByte(bytes: Buffer, byte: number, start: number, end: number): boolean {
  if (end - start > NEAR_BYTES) return bytes.subarray(start, end).includes(byte);
  for (let at = start; at < end; at++) if (bytes[at] === byte) return true;
  return false;
}

/** The text of a JSON string of checked JSON; `start` is its opening quote, `end` one past its closing quote. */
export function decodeString(bytes: Buffer, start: number, end: number): string {
  if (!hasByte(bytes, BACKSLASH, start, end)) return bytes.toString('utf8', start + 1, end - 1);
  return JSON.parse(bytes.toString('utf8', start, end)) as string;
}

/** Strings longer than this many plain bytes are crossed by native search; below it a call costs more than it saves. */
const NEAR_BYTES = 80;
/** Ranges from this length on are checked a word at a time. */
const WORDS_BYTES = 64;

/** What a scan remembers about the bytes ahead, so that each native search starts where the last one ended. Without it a string
 *  with many escapes would search its far end again and again. */
class Ahead {
  quote = NOTHING;
  backslash = NOTHING;
  words: Int32Array | undefined;
  /** Index of the first byte that lies on a word border. */
  border = 0;
}

function nextIndex(bytes: Buffer, byte: number, from: number): number {
  const index = bytes.indexOf(byte, from);
  return index === -1 ? bytes.length : index;
}

function hasControl(bytes: Buffer, start: number, end: number, ahead: Ahead): boolean {
  let at = start;
  if (end - start >= WORDS_BYTES) {
    if (ahead.words === undefined) {
      ahead.border = (4 - (bytes.byteOffset & 3)) & 3;
      ahead.words = new Int32Array(bytes.buffer, bytes.byteOffset + ahead.border, (bytes.length - ahead.border) >> 2);
    }
    const { words, border } = ahead;
    for (; ((at - border) & 3) !== 0; at++) if ((bytes[at] as number) < BLANK) return true;
    const last = (end - border) >> 2;
    let word = (at - border) >> 2;
    let low = 0;
    // The high bit of a byte of (w − 0x20…) & ~w is set exactly where a byte below 0x20 stands (or right above such a byte).
    for (; word + 4 <= last; word += 4) {
      const a = words[word] as number;
      const b = words[word + 1] as number;
      const c = words[word + 2] as number;
      const d = words[word + 3] as number;
      low |= ((a - 0x20202020) & ~a) | ((b - 0x20202020) & ~b) | ((c - 0x20202020) & ~c) | ((d - 0x20202020) & ~d);
    }
    if ((low & 0x80808080) !== 0) return true;
    at = (word << 2) + border;
  }
  for (; at < end; at++) if ((bytes[at] as number) < BLANK) return true;
  return false;
}

/** Is there a byte below 0x20? */
export function hasControls(bytes: Buffer): boolean {
  return hasControl(bytes, 0, bytes.length, new Ahead());
}

const BAD_SYNTAX = -1;
const BAD_CONTROL = -2;

function isHex(byte: number | undefined): boolean {
  if (byte === undefined) return false;
  const letter = byte | 0x20;
  return (byte >= 0x30 && byte <= 0x39) || (letter >= 0x61 && letter <= 0x66);
}

/** One past the escape that starts at the backslash `at`, or BAD_SYNTAX. */
function escapeEnd(bytes: Buffer, at: number): number {
  switch (bytes[at + 1]) {
    case QUOTE:
    case BACKSLASH:
    case 0x2f: // slash
    case 0x62: // b
    case 0x66: // f
    case 0x6e: // n
    case 0x72: // r
    case 0x74: // t
      return at + 2;
    case 0x75: // u
      return isHex(bytes[at + 2]) && isHex(bytes[at + 3]) && isHex(bytes[at + 4]) && isHex(bytes[at + 5])
        ? at + 6
        : BAD_SYNTAX;
    default:
      return BAD_SYNTAX;
  }
}

/** One past the closing quote of the string whose first byte after the opening quote is `start`, or a BAD_… */
function stringEnd(bytes: Buffer, start: number, ahead: Ahead): number {
  const end = bytes.length;
  let at = start;
  for (;;) {
    const near = Math.min(at + NEAR_BYTES, end);
    while (at < near) {
      const byte = bytes[at] as number;
      if (byte === QUOTE) return at + 1;
      if (byte < BLANK) return BAD_CONTROL;
      if (byte === BACKSLASH) {
        at = escapeEnd(bytes, at);
        if (at < 0) return BAD_SYNTAX;
      } else at++;
    }
    if (at >= end) return BAD_SYNTAX;
    if (ahead.quote < at) ahead.quote = nextIndex(bytes, QUOTE, at);
    if (ahead.backslash < at) ahead.backslash = nextIndex(bytes, BACKSLASH, at);
    const stop = Math.min(ahead.quote, ahead.backslash);
    if (hasControl(bytes, at, stop, ahead)) return BAD_CONTROL;
    if (stop === end) return BAD_SYNTAX;
    if (stop === ahead.quote) return stop + 1;
    at = stop;
  }
}

function digitsEnd(bytes: Buffer, start: number): number {
  const end = bytes.length;
  let at = start;
  while (at < end && (bytes[at] as number) >= 0x30 && (bytes[at] as number) <= 0x39) at++;
  return at;
}

/** One past the number that starts at `start` with a digit or `-`, or BAD_SYNTAX. */
function numberEnd(bytes: Buffer, start: number): number {
  const first = bytes[start] === 0x2d ? start + 1 : start;
  let at = bytes[first] === 0x30 ? first + 1 : digitsEnd(bytes, first);
  if (at === first) return BAD_SYNTAX;
  if (bytes[at] === 0x2e) {
    const fraction = at + 1;
    at = digitsEnd(bytes, fraction);
    if (at === fraction) return BAD_SYNTAX;
  }
  if (((bytes[at] ?? 0) | 0x20) === 0x65) {
    const sign = bytes[at + 1];
    const exponent = sign === 0x2b || sign === 0x2d ? at + 2 : at + 1;
    at = digitsEnd(bytes, exponent);
    if (at === exponent) return BAD_SYNTAX;
  }
  return at;
}

/** One past `true`, `false` or `null` at `start`, or BAD_SYNTAX. */
function wordEnd(bytes: Buffer, start: number): number {
  const b = bytes[start + 1];
  const c = bytes[start + 2];
  const d = bytes[start + 3];
  switch (bytes[start]) {
    case 0x74:
      return b === 0x72 && c === 0x75 && d === 0x65 ? start + 4 : BAD_SYNTAX;
    case 0x66:
      return b === 0x61 && c === 0x6c && d === 0x73 && bytes[start + 4] === 0x65 ? start + 5 : BAD_SYNTAX;
    case 0x6e:
      return b === 0x75 && c === 0x6c && d === 0x6c ? start + 4 : BAD_SYNTAX;
    default:
      return BAD_SYNTAX;
  }
}

/** What may come next: the states of the scan. */
const VALUE = 0;
const VALUE_OR_END = 1;
const KEY_OR_END = 2;
const KEY = 3;
const COLON_DUE = 4;
const COMMA_OR_END = 5;

const SYNTAX: Scan = { status: 'syntax' };
const CONTROL_IN_STRING: Scan = { status: 'control_in_string' };
const TOO_DEEP: Scan = { status: 'too_deep' };
const TOO_MANY_KEYS: Scan = { status: 'too_many_keys' };

/** Is the container at this depth an object? Shared between scans, because a scan never yields. */
const isObject = new Uint8Array(JSON_DEPTH + 1);

/** The whole buffer must be one JSON value, with blanks around it at most. */
export function scanJson(bytes: Buffer, names: MemberNames = NO_NAMES, maxKeys: number = JSON_KEYS): Scan {
  const end = bytes.length;
  const members: (Member | undefined)[] = [];
  for (let i = 0; i < names.names.length; i++) members.push(undefined);
  const ahead = new Ahead();
  let layout = false;
  let state = VALUE;
  let depth = 0;
  let keys = 0;
  // The outermost member in progress: index of its name, and where name and value start.
  let member = NOTHING;
  let exact = false;
  let nameStart = 0;
  let valueStart = 0;
  let valueEnd = 0;
  let at = 0;
  for (;;) {
    let byte = at < end ? (bytes[at] as number) : NOTHING;
    while (byte <= BLANK && byte !== NOTHING) {
      if (byte !== BLANK) {
        if (byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return SYNTAX;
        if (depth > 0) layout = true;
      }
      at++;
      byte = at < end ? (bytes[at] as number) : NOTHING;
    }
    if (byte === NOTHING) return state === COMMA_OR_END && depth === 0 ? { status: 'ok', layout, members } : SYNTAX;

    if (state === COMMA_OR_END) {
      if (depth === 0) return SYNTAX;
      if (depth === 1 && member !== NOTHING) {
        if (exact || members[member]?.exact !== true)
          members[member] = { nameStart, start: valueStart, end: valueEnd, exact };
        member = NOTHING;
      }
      at++;
      if (byte === COMMA) {
        state = isObject[depth] === 1 ? KEY : VALUE;
      } else if (byte === (isObject[depth] === 1 ? CLOSE_OBJECT : CLOSE_ARRAY)) {
        depth--;
        valueEnd = at;
      } else return SYNTAX;
    } else if (state === COLON_DUE) {
      if (byte !== COLON) return SYNTAX;
      at++;
      state = VALUE;
    } else if ((state === KEY_OR_END && byte === CLOSE_OBJECT) || (state === VALUE_OR_END && byte === CLOSE_ARRAY)) {
      at++;
      depth--;
      valueEnd = at;
      state = COMMA_OR_END;
    } else if (byte === QUOTE) {
      const start = at;
      at = stringEnd(bytes, at + 1, ahead);
      if (at < 0) return at === BAD_CONTROL ? CONTROL_IN_STRING : SYNTAX;
      if (state === KEY || state === KEY_OR_END) {
        if (++keys > maxKeys) return TOO_MANY_KEYS;
        if (depth === 1) {
          member = names.indexOf(bytes, start + 1, at - 1);
          if (member !== NOTHING) exact = names.isExact(member, bytes, start + 1, at - 1);
          nameStart = start;
        }
        state = COLON_DUE;
      } else {
        if (depth === 1) valueStart = start;
        valueEnd = at;
        state = COMMA_OR_END;
      }
    } else if (state === KEY || state === KEY_OR_END) {
      return SYNTAX;
    } else {
      if (depth === 1) valueStart = at;
      if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
        if (depth === JSON_DEPTH) return TOO_DEEP;
        depth++;
        isObject[depth] = byte === OPEN_OBJECT ? 1 : 0;
        state = byte === OPEN_OBJECT ? KEY_OR_END : VALUE_OR_END;
        at++;
      } else {
        at = byte === 0x2d || (byte >= 0x30 && byte <= 0x39) ? numberEnd(bytes, at) : wordEnd(bytes, at);
        if (at < 0) return SYNTAX;
        valueEnd = at;
        state = COMMA_OR_END;
      }
    }
  }
}

/** One past the closing quote of the string whose first byte after the opening quote is `start`; the text is known to be JSON. */
export function skipString(bytes: Buffer, start: number): number {
  let at = start;
  for (;;) {
    // Where there are escapes there are more of them, so each is followed by a few bytes that are looked at one by one.
    const near = Math.min(at + NEAR_BYTES, bytes.length);
    while (at < near) {
      const byte = bytes[at] as number;
      if (byte === QUOTE) return at + 1;
      at += byte === BACKSLASH ? 2 : 1;
    }
    const quote = nextIndex(bytes, QUOTE, at);
    let run = quote;
    while (run > at && bytes[run - 1] === BACKSLASH) run--;
    // An even run of backslashes before the quote escapes itself, an odd one escapes the quote.
    if (((quote - run) & 1) === 0) return quote + 1;
    at = quote + 1;
  }
}

/** One past the value that starts at `start`; the text is known to be JSON. */
function skipValue(bytes: Buffer, start: number): number {
  let depth = 0;
  let at = start;
  while (at < bytes.length) {
    const byte = bytes[at] as number;
    if (byte === QUOTE) {
      at = skipString(bytes, at + 1);
      if (depth === 0) return at;
    } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      depth++;
      at++;
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
      if (depth === 0) return at;
      at++;
      if (--depth === 0) return at;
    } else if (depth === 0 && (byte === COMMA || byte <= BLANK)) return at;
    else at++;
  }
  return at;
}

/** Members of the object whose `{` stands at `start`, in text that passed `scanJson`. Walks the object once. */
export function findMembers(bytes: Buffer, start: number, names: MemberNames): Members {
  const members: (Member | undefined)[] = [];
  for (let i = 0; i < names.names.length; i++) members.push(undefined);
  let at = start + 1;
  while (at < bytes.length) {
    const byte = bytes[at] as number;
    if (byte === CLOSE_OBJECT) break;
    if (byte !== QUOTE) {
      at++;
      continue;
    }
    const nameStart = at;
    const nameEnd = skipString(bytes, at + 1);
    at = nameEnd;
    while (at < bytes.length && ((bytes[at] as number) <= BLANK || bytes[at] === COLON)) at++;
    const valueStart = at;
    at = skipValue(bytes, at);
    const index = names.indexOf(bytes, nameStart + 1, nameEnd - 1);
    if (index === NOTHING) continue;
    const exact = names.isExact(index, bytes, nameStart + 1, nameEnd - 1);
    if (exact || members[index]?.exact !== true) members[index] = { nameStart, start: valueStart, end: at, exact };
  }
  return members;
}

/** Escapes may make a text longer by this much; a picture broken into lines of 76 characters needs 3 % of its size. */
const TIDY_GROWTH_BYTES = 1024 * 1024;

const ESCAPES: readonly Uint8Array[] = Array.from({ length: BLANK }, (_, control) =>
  Buffer.from(JSON.stringify(String.fromCharCode(control)).slice(1, -1)),
);

/** A copy on one line: raw control characters inside strings escaped, line breaks and tabs between tokens turned into blanks.
 *  Text that passed a scan keeps its length and every position, and passes again; of other text only a scan can tell.
 *  Undefined if the escapes would make the text more than 1 MiB longer. */
export function tidyJson(bytes: Buffer): Buffer | undefined {
  const tidy = Buffer.allocUnsafe(bytes.length + Math.min(TIDY_GROWTH_BYTES, 5 * bytes.length));
  const room = tidy.length - bytes.length;
  let growthBytes = 0;
  let inString = false;
  let escaped = false;
  const end = bytes.length;
  for (let at = 0; at < end; at++) {
    const byte = bytes[at] as number;
    if (byte >= BLANK) {
      tidy[at + growthBytes] = byte;
      if (byte === QUOTE) inString = inString === escaped;
      escaped = byte === BACKSLASH && inString && !escaped;
    } else if (inString && !escaped) {
      const spelled = ESCAPES[byte] as Uint8Array;
      if (growthBytes + spelled.length - 1 > room) return undefined;
      for (let i = 0; i < spelled.length; i++) tidy[at + growthBytes + i] = spelled[i] as number;
      growthBytes += spelled.length - 1;
    } else {
      // A backslash before a raw control character is no escape: it stays, and the next scan refuses it.
      tidy[at + growthBytes] = !inString && (byte === 0x09 || byte === 0x0a || byte === 0x0d) ? BLANK : byte;
      escaped = false;
    }
  }
  return tidy.subarray(0, bytes.length + growthBytes);
}
