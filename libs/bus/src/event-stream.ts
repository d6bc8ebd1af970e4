/** Keeps events per shard, in order, bounded; hands them to readers by position. At least once: I5 rests on `append` resolving only
 *  after the store has accepted the entry. Store away: methods reject with BrokerError `broker_unavailable`. */

import type { EventRecord } from '@lapi-broker/protocol';

/** Position in one shard's stream: `<ms>-<number>` as the store minted it. The number of an entry counts from 1 in its shard, without a hole,
 *  whoever writes; ms is the time of the store, never before that of the entry before it. So between entries a and b lie b − a − 1 others, and a
 *  number that is not above one seen before says that the store has lost its end. A position made from a time of day has no number. */
export type EntryId = string;

export interface StreamEntry {
  readonly shard: number;
  readonly id: EntryId;
  readonly event: EventRecord;
}

export interface StreamBounds {
  /** Last id ever minted, also if trimmed; `0-0` for an empty stream that never had one. */
  readonly last: EntryId;
  /** Oldest entry still there; undefined when empty. */
  readonly first: EntryId | undefined;
  /** Entries ever added, which is the number of the last, and entries still there: their difference was trimmed. */
  readonly added: number;
  readonly length: number;
}

export interface Trimmed {
  /** Entries that went. */
  readonly trimmed: number;
  /** What is left. */
  readonly entries: number;
  /** About, as the limit counts them. */
  readonly bytes: number;
}

export interface Tail {
  close(): Promise<void>;
}

export interface EventStream {
  readonly shards: number;
  /** Resolves with the id once stored. Calls of one process are stored in call order per shard. While the store is away the event waits a
   *  bounded time for it. After a rejection the event may be stored all the same (its answer was lost, or no replica confirmed it).
   *  `event.data` must stay unchanged. */
  append(event: EventRecord): Promise<EntryId>;
  /** Entries after `after`, oldest first, at most `count`. */
  read(shard: number, after: EntryId, count: number): Promise<readonly StreamEntry[]>;
  bounds(shard: number): Promise<StreamBounds>;
  /** Removes what is over the limits of the shard, and what is older than `maxAgeMs`. Appends do the former by themselves from time to time; a
   *  quiet shard needs to be asked. */
  trim(shard: number, maxAgeMs?: number): Promise<Trimmed>;
  /** Follows all shards from their end as it is now, or from after `from[shard]`. Calls back in order per shard, each entry once; after a
   *  connection loss it goes on from its own position. Neither callback may throw.
   *  `onRewound(shard, to)`: the store has lost entries after `to` that were called back or lay behind us (failover to a replica that was
   *  behind, D9), so positions after `to` mean nothing any more. Entries written since then follow, none is skipped; some may repeat. */
  tail(
    from: ReadonlyMap<number, EntryId>,
    onEntries: (shard: number, entries: readonly StreamEntry[]) => void,
    onRewound?: (shard: number, to: EntryId) => void,
  ): Promise<Tail>;
}

/** Id before all ids. */
export const ZERO_ID: EntryId = '0-0';

/** Orders ids as numbers: negative if a is older. */
export function compareEntryIds(a: EntryId, b: EntryId): number {
  const [aMs = '0', aSeq = '0'] = a.split('-');
  const [bMs = '0', bSeq = '0'] = b.split('-');
  return Number(aMs) - Number(bMs) || Number(aSeq) - Number(bSeq);
}

/** Number of an entry in its shard, from 1; 0 before the first. */
export function entryNumber(id: EntryId): number {
  return Number(id.slice(id.indexOf('-') + 1));
}
