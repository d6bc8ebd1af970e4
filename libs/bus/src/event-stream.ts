/** Keeps events per shard, in order, bounded; hands them to readers by position. At least once: I5 rests on `append` resolving only
 *  after the store has accepted the entry. Store away: methods reject with BrokerError `broker_unavailable`. */

import type { EventRecord } from '@lapi-broker/protocol';

/** Position in one shard's stream: `<ms>-<seq>` as the store minted it. */
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
  /** Entries ever added and entries still there: their difference was trimmed. */
  readonly added: number;
  readonly length: number;
}

export interface Tail {
  close(): Promise<void>;
}

export interface EventStream {
  readonly shards: number;
  /** Resolves with the id once stored. Calls of one process are stored in call order per shard. While the store is away the event waits a
   *  bounded time for it. After a rejection the event may be stored all the same (its answer was lost). `event.data` must stay unchanged. */
  append(event: EventRecord): Promise<EntryId>;
  /** Entries after `after`, oldest first, at most `count`. */
  read(shard: number, after: EntryId, count: number): Promise<readonly StreamEntry[]>;
  bounds(shard: number): Promise<StreamBounds>;
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
