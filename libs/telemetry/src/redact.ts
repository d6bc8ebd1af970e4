/** Keeps secrets, bodies and images out of logs (protocol S5, S14). Three layers, because one is always forgotten somewhere:
 *  the value of a field with a telling name is replaced at any depth; bytes are never printed and long strings are cut; and the
 *  finished line is searched for the same names inside texts, such as URLs, JSON in a string, or the message of an error.
 *  Names are compared without case, `-` and `_`. False positives are accepted: a hidden number is cheaper than a shown secret.
 *  Pure functions; the input is never changed. */

export const CENSORED = '[redacted]';

/** Whole names. */
const NAMES: ReadonlySet<string> = new Set([
  'sign',
  'signature',
  'nonce',
  'cnonce',
  'resign',
  'pin',
  'loginname',
  'loginpass',
]);
/** Parts of names. */
const PARTS =
  /secret|token|password|passwd|pwd|passphrase|authorization|cookie|apikey|privatekey|noncekey|sealingkey|credential/;

const MAX_DEPTH = 8;
const MAX_ENTRIES = 100;
const MAX_TEXT = 1024;
const MAX_STACK_TEXT = 8192;

/** Log calls use the same few names again and again. */
const judged = new Map<string, boolean>();
const MAX_JUDGED = 2000;

export function isSensitiveName(name: string): boolean {
  const known = judged.get(name);
  if (known !== undefined) return known;
  const sensitive = judge(name);
  if (judged.size < MAX_JUDGED) judged.set(name, sensitive);
  return sensitive;
}

function judge(name: string): boolean {
  const plain = name.toLowerCase().replace(/[-_]/g, '');
  return NAMES.has(plain) || PARTS.test(plain);
}

/** A copy that is safe to print: depth, entries and text lengths are bounded, errors become plain objects with their causes. */
export function redact(value: unknown): unknown {
  return copy(value, 0);
}

export function redactFacts(facts: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return copyEntries(Object.entries(facts), 0);
}

function copy(value: unknown, depth: number): unknown {
  switch (typeof value) {
    case 'string':
      return shortened(value, MAX_TEXT);
    case 'bigint':
      return value.toString();
    case 'function':
    case 'symbol':
      return undefined;
    case 'object':
      return value === null ? null : copyObject(value, depth);
    default:
      return value;
  }
}

function copyObject(value: object, depth: number): unknown {
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (value instanceof URL) return shortened(value.href, MAX_TEXT);
  if (depth >= MAX_DEPTH) return '[deep]';
  if (value instanceof Error) return copyError(value, depth);
  if (Array.isArray(value)) {
    const items: unknown[] = value.slice(0, MAX_ENTRIES).map((item) => copy(item, depth + 1));
    if (value.length > MAX_ENTRIES) items.push(`[${value.length - MAX_ENTRIES} more]`);
    return items;
  }
  if (value instanceof Set) return copyObject([...value], depth);
  if (value instanceof Map) {
    return copyEntries(
      [...value].map(([key, item]) => [String(key), item]),
      depth,
    );
  }
  return copyEntries(Object.entries(value), depth);
}

function copyError(error: Error, depth: number): Record<string, unknown> {
  const { name, message, stack, cause, ...rest } = {
    ...error,
    name: error.name,
    message: error.message,
    stack: error.stack,
  };
  return {
    type: name,
    message: shortened(message, MAX_TEXT),
    ...copyEntries(Object.entries(rest), depth),
    ...(stack === undefined ? {} : { stack: shortened(stack, MAX_STACK_TEXT) }),
    ...(error.cause === undefined && cause === undefined ? {} : { cause: copy(error.cause ?? cause, depth + 1) }),
  };
}

function copyEntries(entries: readonly (readonly [string, unknown])[], depth: number): Record<string, unknown> {
  const target: Record<string, unknown> = {};
  for (const [name, item] of entries.length > MAX_ENTRIES ? entries.slice(0, MAX_ENTRIES) : entries) {
    const value = isSensitiveName(name) && item !== undefined ? CENSORED : copy(item, depth + 1);
    // Assigning would set the prototype; a foreign `__proto__` is an ordinary key (protocol S14).
    if (name === '__proto__')
      Object.defineProperty(target, name, { value, enumerable: true, configurable: true, writable: true });
    else target[name] = value;
  }
  return target;
}

function shortened(text: string, limit: number): string {
  return text.length <= limit ? text : `${text.slice(0, limit)}…[${text.length - limit} more]`;
}

const IN_TEXT_NAME =
  '[\\w-]*(?:secret|token|password|passwd|pwd|passphrase|api[-_]?key|private[-_]?key|credential)|c?nonce|(?:re)?sign(?:ature)?|pin|login[-_]?(?:name|pass)';
/** name=value, as in a query string or a form. */
const ASSIGNMENT = new RegExp(`\\b(${IN_TEXT_NAME})=(?!\\[redacted\\])[^&\\s"'\\\\,;)<>]+`, 'gi');
/** "name": "value" or "name": 1, also with escaped quotes, as JSON inside a string of JSON has them. */
const MEMBER = new RegExp(
  `(\\\\*["'])(${IN_TEXT_NAME})\\1(\\s*:\\s*)(?:(\\\\*["'])(?!\\[redacted\\])[^"'\\\\]*|-?\\d[\\w.+-]*)`,
  'gi',
);
const AUTHORIZATION = /\b(bearer|basic|digest)\s+[\w.~+/=-]{6,}/gi;
const URL_CREDENTIALS = /:\/\/[^\s/@"'\\]*@/g;

/** Holds for every text that one of the expressions above could change, and for few others: most lines are done after it. */
const SUSPECT = /sign|nonce|pin|secret|token|pass|pwd|private|api[-_]?key|credential|login|bearer|basic|digest|@/i;

/** The last line of defence, on a finished log line or any text. */
export function redactText(text: string): string {
  if (!SUSPECT.test(text)) return text;
  return text
    .replace(URL_CREDENTIALS, `://${CENSORED}@`)
    .replace(ASSIGNMENT, `$1=${CENSORED}`)
    .replace(MEMBER, (_, quote: string, name: string, colon: string, open: string | undefined) =>
      open === undefined
        ? `${quote}${name}${quote}${colon}${quote}${CENSORED}${quote}`
        : `${quote}${name}${quote}${colon}${open}${CENSORED}`,
    )
    .replace(AUTHORIZATION, `$1 ${CENSORED}`);
}

/** Names of query parameters whose values may be shown; protocol 2.5 and the filters of our own API. */
const SHOWN_PARAMETERS: ReadonlySet<string> = new Set([
  'vendor',
  'devicetype',
  'devicecode',
  'algorithm',
  'code',
  'kind',
  'limit',
  'cursor',
  'mode',
  'timeoutms',
  'tag',
]);

/** A URL or request target for a log line: credentials and all but known harmless parameters are replaced. */
export function redactUrl(url: string): string {
  const withoutCredentials = url.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^\s/@]*@/i, `$1${CENSORED}@`);
  const mark = withoutCredentials.indexOf('?');
  if (mark < 0) return shortened(withoutCredentials, MAX_TEXT);
  const query = withoutCredentials
    .slice(mark + 1, mark + 1 + 4096)
    .split('&', MAX_ENTRIES)
    .map((pair) => {
      const equals = pair.indexOf('=');
      const name = equals < 0 ? pair : pair.slice(0, equals);
      if (SHOWN_PARAMETERS.has(name.toLowerCase())) return pair;
      // What is not known by name may itself be a value, such as a bare token with base64 padding.
      return isSensitiveName(name) && name.length <= 32 && equals >= 0 ? `${name}=${CENSORED}` : CENSORED;
    })
    .join('&');
  return shortened(`${withoutCredentials.slice(0, mark)}?${query}`, MAX_TEXT);
}
