/** A place in one shard's stream, as numbers, because a live feed compares places far more often than it writes them.
 *  A position means "everything up to and including this entry has been dealt with".
 *
 *  The store numbers the entries of a shard from 1 without a hole, and `seq` is that number: how many entries lie between two places is
 *  arithmetic. A place that came from a time of day has no number: `seq` is 0, and it lies before all entries of its `ms`.
 *  Pure. */

import type { EntryId } from '@lapi-broker/bus';

export interface Position {
  readonly ms: number;
  readonly seq: number;
}

/** Before the first entry of every stream. Has a number, 0, because nothing can lie before it. */
export const ORIGIN: Position = { ms: 0, seq: 0 };

export function parsePosition(id: EntryId): Position {
  const dash = id.indexOf('-');
  return { ms: Number(id.slice(0, dash)), seq: Number(id.slice(dash + 1)) };
}

export function formatPosition(position: Position): EntryId {
  return `${position.ms}-${position.seq}`;
}

/** Negative if `a` is older. */
export function comparePositions(a: Position, b: Position): number {
  return a.ms - b.ms || a.seq - b.seq;
}

/** Reading after it yields the entries of `ms` and younger. */
export function beforeTime(ms: number): Position {
  return ms <= 0 ? ORIGIN : { ms, seq: 0 };
}

/** Reading after it yields `entry` and younger. */
export function justBefore(entry: Position): Position {
  if (entry.seq === 0) return entry;
  return entry.seq === 1 ? ORIGIN : { ms: entry.ms, seq: entry.seq - 1 };
}

/** The first place behind `position` at which an entry can lie. */
export function justBehind(position: Position): Position {
  return { ms: position.ms, seq: position.seq + 1 };
}

export function isNumbered(position: Position): boolean {
  return position.seq > 0 || position.ms === 0;
}

/** Entries after `a` and before `b`; null when a place has no number. */
export function countBetween(a: Position, b: Position): number | null {
  return isNumbered(a) && isNumbered(b) ? Math.max(0, b.seq - a.seq - 1) : null;
}

/** Has a stream that ends at `last` lost the entry at `place`? A time of day can be ahead of every stream; an entry cannot. */
export function isBeyond(place: Position, last: Position): boolean {
  if (!isNumbered(place)) return false;
  return place.seq > last.seq || comparePositions(place, last) > 0 || (place.seq === last.seq && place.ms !== last.ms);
}

export function latest(a: Position, b: Position): Position {
  return comparePositions(a, b) < 0 ? b : a;
}

export function earliest(a: Position, b: Position): Position {
  return comparePositions(a, b) < 0 ? a : b;
}

/** Public id of an entry, `<shard>-<ms>-<seq>`: `07-1735689600000-42`. Unique as long as the store does not go back. */
export function eventId(shard: number, position: Position): string {
  return `${shard < 10 ? '0' : ''}${shard}-${position.ms}-${position.seq}`;
}

const EVENT_ID = /^(\d{1,5})-(\d{1,15})-(\d{1,15})$/;

export function parseEventId(
  text: string,
  shards: number,
): { readonly shard: number; readonly position: Position } | undefined {
  const found = EVENT_ID.exec(text);
  if (found === null) return undefined;
  const shard = Number(found[1]);
  const position = { ms: Number(found[2]), seq: Number(found[3]) };
  return shard < shards ? { shard, position } : undefined;
}
