/** Turns "what this subscriber has dealt with" into a short text and back, and reads the other ways to say where to start.
 *  A cursor is opaque to clients: base64url of
 *
 *    version = 1 · varint shards of the installation · varint shards named · varint newest ms
 *    per named shard: varint step from the shard before (left out when all are named) · varint age · varint seq (left out when 0)
 *      age: 0 = before everything; else 1 + 2 × (newest ms − ms) + (1 when a seq follows)
 *    one check byte over all of it
 *
 *  About 170 characters for 16 busy shards, 25 for one. A cursor that is cut, mistyped, or from an installation with another number of shards
 *  is not accepted at all, because half a cursor would skip events (reliability D9). Pure. */

import { beforeTime, ORIGIN, type Position, parseEventId } from './position.ts';

export type StartPoint =
  /** Events from the moment of joining. */
  | { readonly from: 'now' }
  /** The oldest event still kept. */
  | { readonly from: 'start' }
  | { readonly from: 'time'; readonly ms: number }
  | { readonly from: 'event'; readonly shard: number; readonly position: Position }
  | { readonly from: 'cursor'; readonly positions: ReadonlyMap<number, Position> };

/** What a platform may give as `from`, for messages of refusal. */
export const START_POINTS =
  'a cursor of this broker (SSE `id:`, WebSocket `cursor`), an event id such as 07-1735689600000-42, an RFC 3339 time such as 2025-01-01T00:00:00Z, `now`, or `start`';

const VERSION = 1;
const MAX_TEXT = 4096;
const BASE64URL = /^[A-Za-z0-9_-]+$/;
const RFC3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)$/;

// Other shards may deliver events that are a little older than the newest one seen: masters have clocks of their own, and tails their own pace.
const OTHER_SHARDS_MARGIN_MS = 10_000;

/** `named` ascending. */
export function encodeCursor(shards: number, named: readonly number[], at: (shard: number) => Position): string {
  let newestMs = 0;
  for (const shard of named) newestMs = Math.max(newestMs, at(shard).ms);
  const writer = new Writer(24 + named.length * 20);
  writer.byte(VERSION);
  writer.varint(shards);
  writer.varint(named.length);
  writer.varint(newestMs);
  let before = -1;
  for (const shard of named) {
    const { ms, seq } = at(shard);
    if (named.length < shards) writer.varint(shard - before - 1);
    before = shard;
    if (ms === 0 && seq === 0) {
      writer.byte(0);
    } else {
      writer.varint(1 + 2 * (newestMs - ms) + (seq > 0 ? 1 : 0));
      if (seq > 0) writer.varint(seq);
    }
  }
  return writer.finish();
}

/** Answers undefined for anything but a whole cursor of an installation with `shards` shards. */
export function decodeCursor(text: string, shards: number): ReadonlyMap<number, Position> | undefined {
  if (text.length > MAX_TEXT || !BASE64URL.test(text)) return undefined;
  const bytes = Buffer.from(text, 'base64url');
  const end = bytes.length - 1;
  if (end < 4 || bytes[0] !== VERSION || bytes[end] !== check(bytes, end)) return undefined;
  const reader = new Reader(bytes, 1, end);
  if (reader.varint() !== shards) return undefined;
  const count = reader.varint();
  const newestMs = reader.varint();
  if (!(count >= 1 && count <= shards)) return undefined;
  const positions = new Map<number, Position>();
  let shard = -1;
  for (let i = 0; i < count; i++) {
    shard += count < shards ? reader.varint() + 1 : 1;
    const age = reader.varint() - 1;
    const position =
      age === -1 ? ORIGIN : { ms: newestMs - Math.floor(age / 2), seq: age % 2 === 1 ? reader.varint() : 0 };
    if (!(shard < shards && position.ms >= 0 && position.seq >= 0)) return undefined;
    positions.set(shard, position);
  }
  return reader.done() ? positions : undefined;
}

/** `nowMs`: a time ahead of it by more than a minute is refused rather than answered with silence until then. */
export function parseStartPoint(text: string, shards: number, nowMs: number): StartPoint | undefined {
  if (text === 'now' || text === 'start') return { from: text };
  const event = parseEventId(text, shards);
  if (event !== undefined) return { from: 'event', ...event };
  const time = RFC3339.exec(text);
  if (time !== null) {
    const ms = Date.parse(text.toUpperCase().replace(' ', 'T'));
    if (Number.isNaN(ms) || ms > nowMs + 60_000 || !isDay(Number(time[1]), Number(time[2]), Number(time[3])))
      return undefined;
    return { from: 'time', ms: Math.max(0, ms) };
  }
  const positions = decodeCursor(text, shards);
  return positions && { from: 'cursor', positions };
}

/** `Date` reads the 30th of February as a day in March, and so would begin later than was meant. */
function isDay(year: number, month: number, day: number): boolean {
  return day >= 1 && day <= new Date(Date.UTC(year, month, 0)).getUTCDate();
}

/** Where a subscriber starts in one shard. Never behind what the start point promises, often before it: repeats are allowed, holes are not. */
export function startPosition(start: StartPoint, shard: number, now: Position): Position {
  switch (start.from) {
    case 'now':
      return now;
    case 'start':
      return ORIGIN;
    case 'time':
      return beforeTime(start.ms);
    case 'event':
      if (shard === start.shard) return start.position;
      return beforeTime(Math.max(0, start.position.ms - OTHER_SHARDS_MARGIN_MS));
    case 'cursor': {
      const named = start.positions.get(shard);
      if (named !== undefined) return named;
      // The cursor came from a narrower filter: in this shard it only tells a time.
      let oldestMs = Number.POSITIVE_INFINITY;
      for (const { ms } of start.positions.values()) if (ms > 0) oldestMs = Math.min(oldestMs, ms);
      return oldestMs === Number.POSITIVE_INFINITY
        ? ORIGIN
        : beforeTime(Math.max(0, oldestMs - OTHER_SHARDS_MARGIN_MS));
    }
  }
}

/** FNV-1a folded to one byte: against typing and cutting, not against intent. */
function check(bytes: Uint8Array, end: number): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < end; i++) value = Math.imul(value ^ (bytes[i] as number), 0x01000193);
  return (value ^ (value >>> 8) ^ (value >>> 16) ^ (value >>> 24)) & 0xff;
}

class Writer {
  #bytes: Buffer;
  #at = 0;

  constructor(capacity: number) {
    this.#bytes = Buffer.allocUnsafe(capacity);
  }

  byte(value: number): void {
    this.#bytes[this.#at++] = value;
  }

  /** Non-negative, below 2^53: eight bytes at most. */
  varint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#at++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes[this.#at++] = rest;
  }

  finish(): string {
    this.#bytes[this.#at] = check(this.#bytes, this.#at);
    return this.#bytes.toString('base64url', 0, this.#at + 1);
  }
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #end: number;
  #at: number;

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  /** NaN past the end or above 2^53; comparisons with it are false, so it never becomes a position. */
  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 8 && this.#at < this.#end; i++) {
      const byte = this.#bytes[this.#at++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value <= Number.MAX_SAFE_INTEGER ? value : Number.NaN;
      scale *= 0x80;
    }
    return Number.NaN;
  }

  done(): boolean {
    return this.#at === this.#end;
  }
}
