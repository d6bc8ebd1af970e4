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

export interface EventStream {
  readonly shards: number;
  /** Resolves with the id once stored. Calls of one process are stored in call order per shard. */
  append(event: EventRecord): Promise<EntryId>;
  /** Entries after `after`, oldest first, at most `count`. */
  read(shard: number, after: EntryId, count: number): Promise<readonly StreamEntry[]>;
  bounds(shard: number): Promise<StreamBounds>;
  /** Follows all shards from their end, or from `from[shard]`. Calls back in order per shard, each entry once;
   *  after a connection loss it goes on from its own position. */
  tail(from: ReadonlyMap<number, EntryId>, onEntries: (shard: number, entries: readonly StreamEntry[]) => void): Promise<{ close(): Promise<void> }>;
}

/** Orders ids as numbers: negative if a is older. */
export function compareEntryIds(a: EntryId, b: EntryId): number {
  const [aMs = '0', aSeq = '0'] = a.split('-');
  const [bMs = '0', bSeq = '0'] = b.split('-');
  return Number(aMs) - Number(bMs) || Number(aSeq) - Number(bSeq);
}
