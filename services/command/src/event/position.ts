/** A place in one shard's stream, as numbers, because a live feed compares places far more often than it writes them.
 *  A position means "everything up to and including this entry has been dealt with". Pure. */

import type { EntryId } from '@lapi-broker/bus';

export interface Position {
  readonly ms: number;
  readonly seq: number;
}

/** Before the first entry of every stream. */
export const ORIGIN: Position = { ms: 0, seq: 0 };

// No store mints so many entries in one millisecond, so this sorts behind all of them.
const LAST_SEQ = Number.MAX_SAFE_INTEGER;

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
  return ms <= 0 ? ORIGIN : { ms: ms - 1, seq: LAST_SEQ };
}

/** Reading after it yields `position` and younger. */
export function justBefore(position: Position): Position {
  return position.seq > 0 ? { ms: position.ms, seq: position.seq - 1 } : beforeTime(position.ms);
}

export function latest(a: Position, b: Position): Position {
  return comparePositions(a, b) < 0 ? b : a;
}

export function earliest(a: Position, b: Position): Position {
  return comparePositions(a, b) < 0 ? a : b;
}

/** Public id of an entry, `<shard>-<ms>-<seq>`: `07-1735689600000-0`. Unique as long as the store does not go back. */
export function eventId(shard: number, position: Position): string {
  return `${shard < 10 ? '0' : ''}${shard}-${position.ms}-${position.seq}`;
}

const EVENT_ID = /^(\d{1,5})-(\d{1,15})-(\d{1,16})$/;

export function parseEventId(
  text: string,
  shards: number,
): { readonly shard: number; readonly position: Position } | undefined {
  const found = EVENT_ID.exec(text);
  if (found === null) return undefined;
  const shard = Number(found[1]);
  const position = { ms: Number(found[2]), seq: Number(found[3]) };
  return shard < shards && position.seq <= LAST_SEQ ? { shard, position } : undefined;
}
