/** Where a tail stands in one shard's stream, and what it has lately called back. Pure.
 *
 *  Ids are minted from the clock of the server. After a failover the new server may lack entries that we have seen and may mint ids that are
 *  lower than ours, so "everything after my position" would skip them (D9: 142 of 212 skipped). Therefore, whenever another server or another
 *  run of it answers, the cursor goes back as far as it remembers, and drops what it has already called back, recognised by id *and*
 *  content, because a lost id may be minted again for another event. */

import type { EventRecord } from '@lapi-broker/protocol';
import { compareEntryIds, type EntryId, entryNumber, type StreamEntry } from './event-stream.ts';

/** More than a replica is behind in any state in which it may be promoted, at the event rate of one shard. */
const REMEMBERED = 1024;
/** How far to go back when the store lost more than we remember, or lost its end before we heard anything. */
const LOST_TRACK_MS = 10_000;

export class Cursor {
  readonly shard: number;
  /** Entries after this are asked for. */
  position: EntryId;
  /** The id called back last, or where the tail began. */
  #last: EntryId;
  /** Number of the entry called back last; 0 before the first, because where a tail begins may be a time of day. */
  #number = 0;
  /** Id → what it was, in the order of calling back: all that was called back after `#floor`. */
  readonly #recent = new Map<EntryId, string>();
  #floor: EntryId;
  #generation: string | undefined;

  constructor(shard: number, position: EntryId) {
    this.shard = shard;
    this.position = position;
    this.#last = position;
    this.#floor = position;
  }

  /** To be told before reading from a server: which run of which server it is, and the last id it has minted for the stream.
   *  Answers where the stream was cut back to, if it was. */
  resume(generation: string, last: EntryId): EntryId | undefined {
    const same = generation === this.#generation;
    this.#generation = generation;
    const shorter = compareEntryIds(last, this.#last) < 0;
    if (same && !shorter) return undefined;
    this.position = this.#floor;
    if (!shorter) return undefined;
    if (compareEntryIds(last, this.#floor) < 0) {
      const lastMs = Number(last.split('-')[0]);
      this.position = `${Math.max(0, lastMs - LOST_TRACK_MS)}-0`;
      this.#floor = this.position;
    }
    this.#last = last;
    this.#number = entryNumber(last);
    return last;
  }

  /** Of entries read from `position` on: those not called back yet, which now count as called back. */
  take(entries: readonly StreamEntry[]): {
    readonly fresh: readonly StreamEntry[];
    readonly rewoundTo: EntryId | undefined;
  } {
    const fresh: StreamEntry[] = [];
    let rewoundTo: EntryId | undefined;
    for (const entry of entries) {
      const before = this.position;
      this.position = entry.id;
      const known = this.#recent.get(entry.id);
      const content = describe(entry.event);
      if (known === content) continue;
      const number = entryNumber(entry.id);
      // An entry that is new, but not by its number or its id: the store has been cut back, and may have grown past us since.
      if (number <= this.#number || compareEntryIds(entry.id, this.#last) <= 0) rewoundTo ??= before;
      this.#last = entry.id;
      this.#number = number;
      this.#remember(entry.id, content);
      fresh.push(entry);
    }
    return { fresh, rewoundTo };
  }

  #remember(id: EntryId, content: string): void {
    this.#recent.delete(id);
    this.#recent.set(id, content);
    if (this.#recent.size <= REMEMBERED) return;
    const forgotten = this.#recent.keys().next().value;
    if (forgotten === undefined) return;
    this.#recent.delete(forgotten);
    // After a rewind lower ids come in behind higher ones; the floor never falls.
    if (compareEntryIds(forgotten, this.#floor) > 0) this.#floor = forgotten;
  }
}

function describe(event: EventRecord): string {
  return `${event.code} ${event.session} ${event.seq} ${event.at} ${event.kind}`;
}
