/** Answers "what of this message may people see?": the begin of its JSON with everything hidden that may be secret or is no text (protocol S5,
 *  reliability T10). Values under a telling name are hidden whole, whatever they are; texts that are long, look like base64 or a token, or have
 *  escapes in them (such as JSON of their own) are replaced by their length; what the cut went through is left out. Works on text
 *  that was cut anywhere, and on what is no JSON at all. Pure. */

import { CENSORED, isSensitiveName, redactText, redactUrl } from '@lapi-broker/telemetry';

/** Of the excerpt. */
export const EXCERPT_BYTES = 200;
const LONGEST_TEXT = 64;
/** A whole text of these characters is more likely a key, a token or a piece of a picture than a word. */
const OPAQUE = /^[A-Za-z0-9+/=_-]{24,}$/;
const BLANK = /\s/;
const STRUCTURE = '{}[],:';
/** All that stands outside of quotes in JSON. */
const LITERAL = /^(?:-?[\d.eE+-]{1,24}|true|false|null)$/;

/** `text`: the begin of a message, perhaps cut. */
export function excerptOf(text: string): string {
  let shown = '';
  for (let at = skipBlanks(text, 0); at < text.length && shown.length < EXCERPT_BYTES; at = skipBlanks(text, at)) {
    const char = text[at] as string;
    if (STRUCTURE.includes(char)) {
      shown += char;
      at++;
      continue;
    }
    const end = char === '"' ? endOfText(text, at) : endOfWord(text, at);
    if (end > text.length) {
      // The cut went through it: how much of it is harmless cannot be judged.
      shown += '"…';
      break;
    }
    if (char !== '"') {
      shown += shownWord(text.slice(at, end));
      at = end;
      continue;
    }
    const inner = text.slice(at + 1, end - 1);
    const colon = skipBlanks(text, end);
    if (text[colon] === ':' && (isSensitiveName(inner) || inner.includes('\\'))) {
      shown += `"${shownText(inner)}":"${CENSORED}"`;
      at = endOfValue(text, skipBlanks(text, colon + 1));
    } else {
      shown += `"${shownText(inner)}"`;
      at = end;
    }
  }
  return cutToBytes(redactText(shown), EXCERPT_BYTES);
}

/** A URL of a message: its path, and of its query what is known to be harmless. */
export function shownUrl(url: string): string {
  return cutToBytes(redactUrl(url), EXCERPT_BYTES);
}

function shownText(inner: string): string {
  const hidden = inner.length > LONGEST_TEXT || OPAQUE.test(inner) || inner.includes('\\');
  return hidden ? `[${inner.length} characters]` : redactText(inner);
}

function shownWord(word: string): string {
  return LITERAL.test(word) ? word : `[${word.length} characters]`;
}

/** Behind the closing quote; beyond the text if there is none. */
function endOfText(text: string, open: number): number {
  for (let at = open + 1; at < text.length; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === '"') return at + 1;
  }
  return text.length + 1;
}

/** Behind the last character that neither ends a word nor begins something else. */
function endOfWord(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length && !BLANK.test(text[at] as string) && !`${STRUCTURE}"`.includes(text[at] as string)) at++;
  return at;
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
  let at = from;
  while (at < text.length && BLANK.test(text[at] as string)) at++;
  return at;
}

function cutToBytes(text: string, bytes: number): string {
  if (Buffer.byteLength(text) <= bytes) return text;
  // A character that the cut went through is left out.
  return `${Buffer.from(text)
    .subarray(0, bytes - 3)
    .toString()
    .replace(/�+$/, '')}…`;
}
