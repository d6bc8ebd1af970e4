/** Answers "what did the device send: an answer, a request, something else, or no JSON?" (protocol 6, tolerances of 6.3).
 *  Order of E9; `Cseq` of a request stays its raw token (E12); texts are views of the device's own bytes, so no number is ever
 *  written anew (E18). Texts that leave here hold no byte below 0x20: each fits on one line of a server-sent event.
 *  The views live as long as the message: copy before waiting for anything (E8).
 *  Pure; what a URL asks for is decided in device-request.ts. */

import {
  decodeString,
  findMembers,
  hasControls,
  type Member,
  MemberNames,
  type Members,
  scanJson,
  tidyJson,
} from './scan.ts';

export type Envelope = DeviceCall | DeviceAnswer | { readonly type: 'stray' } | MalformedMessage;

/** A request of the device: keepalive, notification, … Owed exactly one answer (E14). */
export interface DeviceCall {
  readonly type: 'request';
  readonly url: string;
  /** Empty if the device sent none, or none worth reading. */
  readonly method: string;
  /** JSON token to echo verbatim, a number or a quoted string; undefined = the answer carries no Cseq (E12). */
  readonly cseq: string | undefined;
  /** JSON text of `Data`; undefined for absent, `null` and `"null"`. */
  readonly data: Buffer | undefined;
}

/** The answer of the device to one of our requests. */
export interface DeviceAnswer {
  readonly type: 'response';
  /** As the device wrote it, for logs only: answers are matched by Cseq (E10). Empty if absent. */
  readonly url: string;
  /** Our number, also if it came back as a string. */
  readonly cseq: number | undefined;
  /** Undefined if absent, or not an integer of 32 bits. */
  readonly responseCode: number | undefined;
  readonly statusCode: number | undefined;
  /** E17. */
  readonly success: boolean;
  /** The answer as one JSON object, unwrapped, its members as the device wrote them; only our Cseq is taken out (E11): the bytes from
   *  `cutStart` to `cutEnd` do not belong to it. Not copied here, because it may be large. */
  readonly text: Buffer;
  readonly cutStart: number;
  readonly cutEnd: number;
  /** As in DeviceCall. */
  readonly data: Buffer | undefined;
}

export interface MalformedMessage {
  readonly type: 'malformed';
  readonly reason: 'syntax' | 'too_deep' | 'too_many_keys' | 'url_too_long';
}

/** A device URL beyond this is refused: it would be echoed, logged and stored with each event. */
const URL_BYTES = 4096;
const METHOD_BYTES = 32;
/** A longer Cseq counts as absent. */
const CSEQ_BYTES = 256;
/** No integer of 32 bits is written with more. */
const NUMBER_BYTES = 32;
const NUMERIC_STRING = /^ *-?\d+ *$/;

const NAMES = new MemberNames(
  ['ResponseURL', 'ResponseCode', 'StatusCode', 'RequestURL', 'Method', 'Cseq', 'Data', 'Response'],
  'folded',
);
const RESPONSE_URL = 0;
const RESPONSE_CODE = 1;
const STATUS_CODE = 2;
const REQUEST_URL = 3;
const METHOD = 4;
const CSEQ = 5;
const DATA = 6;
const RESPONSE = 7;

const QUOTE = 0x22;
const OPEN_OBJECT = 0x7b;
const OPEN_ARRAY = 0x5b;

const STRAY: Envelope = { type: 'stray' };
const URL_TOO_LONG: Envelope = { type: 'malformed', reason: 'url_too_long' };

export function readEnvelope(message: Buffer): Envelope {
  let text = trimmed(message);
  let scan = scanJson(text, NAMES);
  if (scan.status === 'control_in_string') {
    text = tidyJson(text) ?? text;
    scan = scanJson(text, NAMES);
  } else if (scan.status === 'ok' && scan.layout) {
    text = tidyJson(text) ?? text;
  }
  if (scan.status !== 'ok') {
    return { type: 'malformed', reason: scan.status === 'control_in_string' ? 'syntax' : scan.status };
  }
  return classify(text, scan.members);
}

/** Radar firmware of 2022 sends unmasked answers: the transport takes their first four bytes, `{"Re`, for the mask. What it then
 *  delivers begins with the rest of `{"ResponseURL"` or `{"RequestURL"` under that mask (E5 a). For messages that are no JSON. */
export function looksUnmasked(message: Uint8Array): boolean {
  return beginsMasked(message, 'sponseURL"') || beginsMasked(message, 'questURL"');
}

function beginsMasked(message: Uint8Array, rest: string): boolean {
  const mask = '{"Re';
  if (message.length < rest.length) return false;
  for (let i = 0; i < rest.length; i++) {
    if (((message[i] as number) ^ mask.charCodeAt(i & 3)) !== rest.charCodeAt(i)) return false;
  }
  return true;
}

/** Without BOM, leading blanks, trailing NUL, line breaks and blanks (6.3, row 5). */
function trimmed(message: Buffer): Buffer {
  let start = message[0] === 0xef && message[1] === 0xbb && message[2] === 0xbf ? 3 : 0;
  let end = message.length;
  while (end > start && (isBlank(message[end - 1]) || message[end - 1] === 0)) end--;
  while (start < end && isBlank(message[start])) start++;
  return start === 0 && end === message.length ? message : message.subarray(start, end);
}

function isBlank(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

function classify(text: Buffer, outer: Members): Envelope {
  const wrap = present(text, outer[RESPONSE]);
  const wrapped =
    wrap !== undefined &&
    text[wrap.start] === OPEN_OBJECT &&
    present(text, outer[RESPONSE_URL]) === undefined &&
    present(text, outer[RESPONSE_CODE]) === undefined &&
    present(text, outer[REQUEST_URL]) === undefined;
  if (!wrapped) return classifyObject(text, outer, outer[CSEQ]);
  const object = text.subarray(wrap.start, wrap.end);
  const inner = findMembers(object, 0, NAMES);
  if (inner[CSEQ] !== undefined || outer[CSEQ] === undefined) return classifyObject(object, inner, inner[CSEQ]);
  // The Cseq stands beside the wrapper: positions of the outer text, so its token is handed over as a text of its own.
  return classifyObject(object, inner, undefined, text.subarray(outer[CSEQ].start, outer[CSEQ].end));
}

function classifyObject(text: Buffer, members: Members, cseq: Member | undefined, cseqBeside?: Buffer): Envelope {
  const responseUrl = present(text, members[RESPONSE_URL]);
  const requestUrl = present(text, members[REQUEST_URL]);
  const method = present(text, members[METHOD]);
  if ((responseUrl ?? present(text, members[RESPONSE_CODE])) !== undefined && method === undefined) {
    const url = stringOf(text, responseUrl, URL_BYTES) ?? '';
    const code = integerOf(text, members[RESPONSE_CODE]);
    const status = integerOf(text, members[STATUS_CODE]);
    const { cutStart, cutEnd } = cutOf(text, cseq);
    return {
      type: 'response',
      url,
      cseq: numberOrAbsent(
        cseqBeside === undefined ? integerOfAny(text, cseq) : integer(cseqBeside, 0, cseqBeside.length),
      ),
      responseCode: numberOrAbsent(code),
      statusCode: numberOrAbsent(status),
      success: code === 0 && (status === undefined || status === 0),
      text,
      cutStart,
      cutEnd,
      data: dataOf(text, members[DATA]),
    };
  }
  if (requestUrl === undefined || text[requestUrl.start] !== QUOTE) return STRAY;
  const url = stringOf(text, requestUrl, URL_BYTES);
  if (url === undefined) return URL_TOO_LONG;
  return {
    type: 'request',
    url,
    method: stringOf(text, method, METHOD_BYTES) ?? '',
    cseq: echoToken(cseqBeside ?? (cseq === undefined ? undefined : text.subarray(cseq.start, cseq.end))),
    data: dataOf(text, members[DATA]),
  };
}

/** A member that is `null` counts as absent, as E12 says of Cseq and 6.3 of Data: some firmware writes every member it knows. */
function present(text: Buffer, member: Member | undefined): Member | undefined {
  return member === undefined || text[member.start] === 0x6e ? undefined : member;
}

/** Undefined unless the member is a string of at most `maxBytes` raw bytes. */
function stringOf(text: Buffer, member: Member | undefined, maxBytes: number): string | undefined {
  if (member === undefined || text[member.start] !== QUOTE || member.end - member.start > maxBytes + 2)
    return undefined;
  return decodeString(text, member.start, member.end);
}

function echoToken(token: Buffer | undefined): string | undefined {
  if (token === undefined) return undefined;
  const first = token[0] as number;
  const isNumber = first === 0x2d || (first >= 0x30 && first <= 0x39);
  return (isNumber || first === QUOTE) && token.length <= CSEQ_BYTES ? token.toString() : undefined;
}

/** As `integerOf`, but a `null` is something. */
function integerOfAny(text: Buffer, member: Member | undefined): number | undefined {
  return member === undefined ? undefined : integer(text, member.start, member.end);
}

/** NaN = there is something, but not an integer of 32 bits. A member that is `null` counts as absent. */
function integerOf(text: Buffer, member: Member | undefined): number | undefined {
  const there = present(text, member);
  return there === undefined ? undefined : integer(text, there.start, there.end);
}

/** Number or numeric string (6.3, row 2). */
function integer(text: Buffer, start: number, end: number): number {
  const plain = plainInteger(text, start, end);
  if (plain >= 0) return plain;
  if (end - start > NUMBER_BYTES) return Number.NaN;
  const quoted = text[start] === QUOTE;
  const spelled = quoted ? text.toString('latin1', start + 1, end - 1) : text.toString('latin1', start, end);
  const value = quoted && !NUMERIC_STRING.test(spelled) ? Number.NaN : Number(spelled);
  return (value | 0) === value ? value + 0 : Number.NaN;
}

/** Longest run of digits that cannot exceed 32 bits. */
const PLAIN_DIGITS = 9;

/** How nearly every number is written: a few digits and nothing else. -1 for all other spellings. */
function plainInteger(text: Buffer, start: number, end: number): number {
  if (end - start > PLAIN_DIGITS) return -1;
  let value = 0;
  for (let at = start; at < end; at++) {
    const digit = (text[at] as number) - 0x30;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

function numberOrAbsent(value: number | undefined): number | undefined {
  return Number.isNaN(value) ? undefined : value;
}

/** Data is an object, `{}`, `null`, absent, the string `"null"`, or JSON text inside a string (6.3, row 1). */
function dataOf(text: Buffer, member: Member | undefined): Buffer | undefined {
  const there = present(text, member);
  if (there === undefined) return undefined;
  const raw = text.subarray(there.start, there.end);
  if (raw[0] !== QUOTE) return raw;
  if (raw.length === 2) return undefined;
  if (!mayHoldJson(raw)) return raw;
  const inner = trimmed(Buffer.from(decodeString(raw, 0, raw.length)));
  if (inner.length === 4 && inner.toString('latin1') === 'null') return undefined;
  if (inner[0] !== OPEN_OBJECT && inner[0] !== OPEN_ARRAY) return raw;
  const tidy = hasControls(inner) ? tidyJson(inner) : inner;
  return tidy !== undefined && scanJson(tidy).status === 'ok' ? tidy : raw;
}

/** A string of megabytes that is no JSON inside is not decoded to find that out. True also where only decoding tells: a BOM, a `\u` escape. */
function mayHoldJson(string: Buffer): boolean {
  let at = 1;
  for (;;) {
    if (isBlank(string[at])) at++;
    else if (string[at] === 0x5c && isLetterOfBlank(string[at + 1])) at += 2;
    else break;
  }
  const first = string[at] as number;
  return (
    first === OPEN_OBJECT ||
    first === OPEN_ARRAY ||
    first === 0x6e ||
    first === 0xef ||
    (first === 0x5c && string[at + 1] === 0x75)
  );
}

/** Of `\n`, `\r`, `\t`. */
function isLetterOfBlank(byte: number | undefined): boolean {
  return byte === 0x6e || byte === 0x72 || byte === 0x74;
}

/** The answer of the device as bytes of its own (see DeviceAnswer). */
export function answerObject({ text, cutStart, cutEnd }: Pick<DeviceAnswer, 'text' | 'cutStart' | 'cutEnd'>): Buffer {
  const object = Buffer.allocUnsafe(text.length - (cutEnd - cutStart));
  writeAnswerObject({ text, cutStart, cutEnd }, object, 0);
  return object;
}

/** Writes what `answerObject` returns. */
export function writeAnswerObject(
  { text, cutStart, cutEnd }: Pick<DeviceAnswer, 'text' | 'cutStart' | 'cutEnd'>,
  target: Buffer,
  at: number,
): void {
  text.copy(target, at, 0, cutStart);
  text.copy(target, at + cutStart, cutEnd);
}

/** Which bytes to leave out so that the object stays one without this member. */
function cutOf(text: Buffer, member: Member | undefined): { readonly cutStart: number; readonly cutEnd: number } {
  if (member === undefined) return { cutStart: text.length, cutEnd: text.length };
  let start = member.nameStart;
  let end = member.end;
  while (isBlank(text[end])) end++;
  if (text[end] === 0x2c) end++;
  else {
    while (isBlank(text[start - 1])) start--;
    if (text[start - 1] === 0x2c) start--;
  }
  return { cutStart: start, cutEnd: end };
}
