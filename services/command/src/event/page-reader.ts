/** Reads pages of one shard's stream for subscribers that are not live, and says what a page cannot show: that something before it is gone.
 *  At most `reads` pages at once in this process; pages aim for `pageBytes`, by the size of earlier entries.
 *  Store away: rejects with BrokerError `broker_unavailable`. */

import type { EventStream, StreamBounds } from '@lapi-broker/bus';
import type { FeedLimits } from './feed-limits.ts';
import { OutgoingEvent } from './outgoing-event.ts';
import { comparePositions, formatPosition, justBefore, type Position, parsePosition } from './position.ts';

export type Page =
  | {
      readonly status: 'read';
      readonly events: readonly OutgoingEvent[];
      /** Everything up to here is in `events`, or gone. */
      readonly upTo: Position;
      /** Something between the place asked for and `begin` may have been trimmed. `next`: the oldest entry that is there, or the youngest
       *  that was. */
      readonly trimmed: { readonly begin: Position; readonly next: Position } | undefined;
    }
  /** The store ends before the place asked for: it has lost its last writes. */
  | { readonly status: 'rewound'; readonly last: Position };

// Until pages have told better: small first pages, because an entry may carry an image of some MiB.
const FIRST_GUESS_BYTES = 32 * 1024;

export class PageReader {
  readonly #stream: EventStream;
  readonly #limits: FeedLimits;
  readonly #waiting: (() => void)[] = [];
  #free: number;
  #entryBytes = FIRST_GUESS_BYTES;

  constructor(stream: EventStream, limits: FeedLimits) {
    this.#stream = stream;
    this.#limits = limits;
    this.#free = limits.reads;
  }

  /** `known`: a place up to which entries were there before this call, so what does not come up to it is gone. */
  async read(shard: number, after: Position, known: Position): Promise<Page> {
    const count = Math.max(
      1,
      Math.min(this.#limits.pageEntries, Math.floor(this.#limits.pageBytes / this.#entryBytes)),
    );
    // The bounds are asked for after the page: had something been trimmed before the page was read, they show it.
    const [entries, bounds] = await this.#oneOfFew(() =>
      Promise.all([this.#stream.read(shard, formatPosition(after), count), this.#stream.bounds(shard)]),
    );
    const last = parsePosition(bounds.last);
    if (comparePositions(last, after) < 0) return { status: 'rewound', last };
    const events = entries.map((entry) => new OutgoingEvent(shard, parsePosition(entry.id), entry.event));
    if (events.length > 0) this.#learn(events);
    const next = events[0]?.position ?? known;
    const begin = events.length === 0 ? known : justBefore(next);
    return {
      status: 'read',
      events,
      upTo: events.at(-1)?.position ?? known,
      trimmed: wasTrimmed(bounds, after, begin) ? { begin, next } : undefined,
    };
  }

  /** The last id of the shard, or that of an older place when the store ends before `place`. */
  async check(shard: number, place: Position): Promise<'there' | { readonly last: Position }> {
    const bounds = await this.#oneOfFew(() => this.#stream.bounds(shard));
    const last = parsePosition(bounds.last);
    return comparePositions(last, place) < 0 ? { last } : 'there';
  }

  #learn(events: readonly OutgoingEvent[]): void {
    let bytes = 0;
    for (const event of events) bytes += event.record.data.length + 256;
    const average = bytes / events.length;
    // Up at once, down slowly: one page too many costs less than one page too large.
    this.#entryBytes = average > this.#entryBytes ? average : this.#entryBytes * 0.7 + average * 0.3;
  }

  async #oneOfFew<T>(read: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await read();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}

/** Could entries between `after` and `begin` have been trimmed? When the oldest one kept is not older than `after`, nothing is missing. */
function wasTrimmed(bounds: StreamBounds, after: Position, begin: Position): boolean {
  if (bounds.added <= bounds.length || comparePositions(after, begin) >= 0) return false;
  return bounds.first === undefined || comparePositions(after, justBefore(parsePosition(bounds.first))) < 0;
}
