/** Says which events a subscriber wants: devices, kinds, tags. Within one list any term may match; lists are joined by "and"; an empty list
 *  asks nothing. `*` stands for any run of characters, and `alarm.*` also matches the bare family `alarm`. Case counts.
 *  Patterns are matched by hand, never as regular expressions of a caller; numbers of terms and stars are bounded, so one event costs one
 *  filter a bounded time. Pure. */

import { type EventRecord, isDeviceCode } from '@lapi-broker/protocol';

export const FILTER_LIMITS = {
  devices: 1_000,
  /** Device terms with `*`, which cannot be looked up and are tried one by one. */
  devicePatterns: 32,
  kinds: 64,
  tags: 64,
  stars: 4,
  kindLength: 128,
  tagLength: 64,
} as const;

export interface FilterTerms {
  readonly devices?: readonly string[] | undefined;
  readonly kinds?: readonly string[] | undefined;
  readonly tags?: readonly string[] | undefined;
}

export type ParsedFilter =
  | { readonly status: 'parsed'; readonly filter: EventFilter }
  | { readonly status: 'invalid'; readonly detail: string };

const DEVICE_TERM = /^[A-Za-z0-9._:*-]{1,72}$/;
// Kinds and tags hold words of devices and operators; only what would break a list or a line is kept out.
const PLAIN_TERM = /^[^\p{Cc},]+$/u;

export function parseFilter(terms: FilterTerms): ParsedFilter {
  const devices = new Set<string>();
  const devicePatterns: Pattern[] = [];
  for (const term of new Set(terms.devices)) {
    if (!DEVICE_TERM.test(term) || !fewStars(term)) return invalid('device', term, 'a DeviceCode, or one with `*`');
    if (term.includes('*')) devicePatterns.push(toPattern(term));
    else if (isDeviceCode(term)) devices.add(term);
    else return invalid('device', term, 'a DeviceCode, or one with `*`');
  }
  if (devices.size > FILTER_LIMITS.devices) return tooMany('devices', FILTER_LIMITS.devices);
  if (devicePatterns.length > FILTER_LIMITS.devicePatterns)
    return tooMany('device terms with `*`', FILTER_LIMITS.devicePatterns);

  const kinds: Pattern[] = [];
  for (const term of new Set(terms.kinds)) {
    if (!PLAIN_TERM.test(term) || !fewStars(term) || term.length > FILTER_LIMITS.kindLength) {
      return invalid('kind', term, 'an event kind such as alarm.MotionAlarmOn, or one with `*`');
    }
    kinds.push(toPattern(term));
    if (term.endsWith('.*')) kinds.push(toPattern(term.slice(0, -2)));
  }
  if (kinds.length > 2 * FILTER_LIMITS.kinds) return tooMany('kinds', FILTER_LIMITS.kinds);

  const tags = new Set(terms.tags);
  for (const tag of tags) {
    if (!PLAIN_TERM.test(tag) || tag.length > FILTER_LIMITS.tagLength) return invalid('tag', tag, 'a tag of devices');
  }
  if (tags.size > FILTER_LIMITS.tags) return tooMany('tags', FILTER_LIMITS.tags);
  return { status: 'parsed', filter: new EventFilter(devices, devicePatterns, kinds, tags) };
}

export class EventFilter {
  /** All devices by name, when the filter names devices and uses no `*` for them; else undefined. */
  readonly exactDevices: ReadonlySet<string> | undefined;
  /** Every family (first word of a kind) that can match, when the kinds say so; undefined = any. */
  readonly families: ReadonlySet<string> | undefined;
  readonly #devices: ReadonlySet<string>;
  readonly #devicePatterns: readonly Pattern[];
  readonly #kinds: readonly Pattern[];
  readonly #tags: ReadonlySet<string>;

  constructor(
    devices: ReadonlySet<string>,
    devicePatterns: readonly Pattern[],
    kinds: readonly Pattern[],
    tags: ReadonlySet<string>,
  ) {
    this.#devices = devices;
    this.#devicePatterns = devicePatterns;
    this.#kinds = kinds;
    this.#tags = tags;
    this.exactDevices = devices.size > 0 && devicePatterns.length === 0 ? devices : undefined;
    this.families = familiesOf(kinds);
  }

  matches(event: EventRecord): boolean {
    return this.#matchesDevice(event.code) && this.#matchesKind(event.kind) && this.#matchesTags(event.tags);
  }

  #matchesDevice(code: string): boolean {
    if (this.#devices.size === 0 && this.#devicePatterns.length === 0) return true;
    return this.#devices.has(code) || anyMatches(this.#devicePatterns, code);
  }

  #matchesKind(kind: string): boolean {
    return this.#kinds.length === 0 || anyMatches(this.#kinds, kind);
  }

  #matchesTags(tags: readonly string[]): boolean {
    if (this.#tags.size === 0) return true;
    for (const tag of tags) if (this.#tags.has(tag)) return true;
    return false;
  }
}

/** First word of a kind: `alarm.MotionAlarmOn` → `alarm`. */
export function familyOf(kind: string): string {
  const dot = kind.indexOf('.');
  return dot < 0 ? kind : kind.slice(0, dot);
}

/** The texts between the stars: `a*b` → ['a', 'b']; one part = no star. */
type Pattern = readonly string[];

function toPattern(term: string): Pattern {
  return term.split('*');
}

function fewStars(term: string): boolean {
  return term.split('*').length - 1 <= FILTER_LIMITS.stars;
}

function anyMatches(patterns: readonly Pattern[], text: string): boolean {
  for (const pattern of patterns) if (matchesPattern(pattern, text)) return true;
  return false;
}

function matchesPattern(parts: Pattern, text: string): boolean {
  const first = parts[0] as string;
  if (parts.length === 1) return text === first;
  const last = parts[parts.length - 1] as string;
  if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return false;
  const end = text.length - last.length;
  let at = first.length;
  for (let i = 1; i < parts.length - 1; i++) {
    const part = parts[i] as string;
    const found = text.indexOf(part, at);
    if (found < 0 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}

function familiesOf(kinds: readonly Pattern[]): ReadonlySet<string> | undefined {
  if (kinds.length === 0) return undefined;
  const families = new Set<string>();
  for (const parts of kinds) {
    const first = parts[0] as string;
    // `ala*` may begin another family; only a whole first word names one.
    if (parts.length > 1 && !first.includes('.')) return undefined;
    families.add(familyOf(first));
  }
  return families;
}

function invalid(list: string, term: string, expected: string): ParsedFilter {
  return { status: 'invalid', detail: `${list} ${JSON.stringify(term.slice(0, 80))} is not ${expected}` };
}

function tooMany(what: string, limit: number): ParsedFilter {
  return { status: 'invalid', detail: `more than ${limit} ${what} in one filter` };
}
