/** Answers "what of this message may people see?": the begin of its JSON with everything hidden that may be secret or is no text (protocol S5,
 *  reliability T10). Values under a telling name are hidden whole, whatever they are; texts that are long, look like base64 or a token, or have
 *  escapes in them (such as JSON of their own) are replaced by their length; what the cut went through is left out, and so is what stands
 *  where JSON has nothing. A message that names a secret as a value, such as {"Name":"Password","Value":"x"}, is not shown at all. Works on
 *  text that was cut anywhere, and on what is no JSON. Pure. */

import { CENSORED, isSensitiveName, redactText, redactUrl } from '@lapi-broker/telemetry';

/** Of the excerpt. */
export const EXCERPT_BYTES = 200;
const LONGEST_TEXT = 64;
/** A whole text of these characters is more likely a key, a token or a piece of a picture than a word. */
const OPAQUE = /^[A-Za-z0-9+/=_-]{24,}$/;
/** Links that name who may open them, pictures, forms. */
const CARRIER = /:\/\/.*@|base64|[?=]/;
/** Parts of names that logs show and messages of devices must not. False hits cost little: one value that is not seen. */
const TELLING =
  /pass|psw|psk|key|auth|cred|cipher|crypt|salt|digest|communit|verif|^pin|pin$|pin(?:code|number)|^val(?:ue)?$/;
const NAME_LIKE = /^[\w.-]{1,32}$/;
const PRINTABLE = /^[ -~]*$/;
const BLANKS = /\s*/y;
const WORD = /[^\s{}[\],:"]*/y;
const STRUCTURE = '{}[],:';
/** What a name or a value may follow in JSON. */
const BEFORE_TOKEN = '{[,:';
/** Devices use the same few names again and again. */
const judged = new Map<string, boolean>();
const MAX_JUDGED = 2_000;
/** All that stands outside of quotes in JSON. */
const LITERAL = /^(?:-?[\d.eE+-]{1,24}|true|false|null)$/;

/** `text`: the begin of a message, perhaps cut. */
export function excerptOf(text: string): string {
  let shown = '';
  let inPlace = true;
  for (let at = skipBlanks(text, 0); at < text.length && shown.length < EXCERPT_BYTES; at = skipBlanks(text, at)) {
    const char = text[at] as string;
    if (STRUCTURE.includes(char)) {
      shown += char;
      inPlace = BEFORE_TOKEN.includes(char);
      at++;
      continue;
    }
    const isQuoted = char === '"';
    const end = isQuoted ? endOfText(text, at) : endOfWord(text, at);
    if (end > text.length) {
      // The cut went through it: how much of it is harmless cannot be judged.
      shown += '"…';
      break;
    }
    const token = isQuoted ? text.slice(at + 1, end - 1) : text.slice(at, end);
    const colon = skipBlanks(text, end);
    const isName = text[colon] === ':';
    const isTelling = isQuoted && tells(token);
    if (isTelling && !isName && NAME_LIKE.test(token)) return CENSORED;
    const quote = isQuoted ? '"' : '';
    shown += `${quote}${inPlace ? (isQuoted ? shownText(token) : shownWord(token)) : lengthOf(token)}${quote}`;
    at = end;
    if (isName && (isTelling || !isQuoted || !inPlace)) {
      shown += `:"${CENSORED}"`;
      at = endOfValue(text, skipBlanks(text, colon + 1));
    }
    inPlace = false;
  }
  return cutToBytes(redactText(shown), EXCERPT_BYTES);
}

/** A URL of a message: its path, and of its query what is known to be harmless. */
export function shownUrl(url: string): string {
  return cutToBytes(redactText(redactUrl(url)), EXCERPT_BYTES);
}

/** May a value under this name be secret? Not only for names as programs write them: a name that cannot be read hides as well. */
function tells(name: string): boolean {
  const known = judged.get(name);
  if (known !== undefined) return known;
  const telling = judge(name);
  if (judged.size < MAX_JUDGED) judged.set(name, telling);
  return telling;
}

function judge(name: string): boolean {
  if (name.includes('\\') || !PRINTABLE.test(name)) return true;
  const plain = name.toLowerCase().replace(/[^a-z0-9]/g, '');
  return TELLING.test(plain) || isSensitiveName(plain);
}

function shownText(inner: string): string {
  const hidden = inner.length > LONGEST_TEXT || OPAQUE.test(inner) || CARRIER.test(inner) || inner.includes('\\');
  return hidden ? lengthOf(inner) : inner;
}

function shownWord(word: string): string {
  return LITERAL.test(word) ? word : lengthOf(word);
}

function lengthOf(text: string): string {
  return `[${text.length} characters]`;
}

/** Behind the closing quote; beyond the text if there is none. */
function endOfText(text: string, open: number): number {
  for (let at = open + 1; ; at += 2) {
    const quote = text.indexOf('"', at);
    if (quote < 0) return text.length + 1;
    const backslash = text.indexOf('\\', at);
    if (backslash < 0 || backslash > quote) return quote + 1;
    at = backslash;
  }
}

/** Behind the last character that neither ends a word nor begins something else. */
function endOfWord(text: string, start: number): number {
  WORD.lastIndex = start + 1;
  WORD.test(text);
  return WORD.lastIndex;
}

/** Behind a value that begins here, with all that is in it. */
function endOfValue(text: string, start: number): number {
  let depth = 0;
  for (let at = start; at < text.length; ) {
    const char = text[at] as string;
    if (depth === 0 && (char === ',' || char === '}' || char === ']')) return at;
    if (char === '{' || char === '[') depth++;
    else if (char === '}' || char === ']') depth--;
    at = char === '"' ? endOfText(text, at) : at + 1;
  }
  return text.length;
}

function skipBlanks(text: string, from: number): number {
  BLANKS.lastIndex = from;
  BLANKS.test(text);
  return BLANKS.lastIndex;
}

function cutToBytes(text: string, bytes: number): string {
  if (Buffer.byteLength(text) <= bytes) return text;
  // A character that the cut went through is left out.
  return `${Buffer.from(text)
    .subarray(0, bytes - 3)
    .toString()
    .replace(/�+$/, '')}…`;
}
