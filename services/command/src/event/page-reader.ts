/** Reads pages of one shard's stream for readers that are not live, and says what a page cannot show: how many entries before it are gone
 *  (retention), or that the store lost entries which the reader had dealt with (failover, D9). Both follow from the numbers of the entries.
 *  At most `reads` pages at once in this process; pages aim for `pageBytes`, by the size of earlier entries.
 *  Store away: rejects with BrokerError `broker_unavailable`. */

import type { EventStream, StreamBounds } from '@lapi-broker/bus';
import type { CatchUp } from './catch-up.ts';
import { type Gap, gapBetween } from './event-sink.ts';
import type { FeedLimits } from './feed-limits.ts';
import { Few } from './few.ts';
import type { EventFilter } from './filter.ts';
import { OutgoingEvent } from './outgoing-event.ts';
import {
  comparePositions,
  formatPosition,
  isBeyond,
  isNumbered,
  justBefore,
  justBehind,
  ORIGIN,
  type Position,
  parsePosition,
} from './position.ts';
import { rewindPlace } from './rewind.ts';

/** Entries after `from` and before `to` are gone. */
export interface Missing {
  readonly from: Position;
  readonly to: Position;
}

export type Page =
  | {
      readonly status: 'read';
      readonly events: readonly OutgoingEvent[];
      /** Everything up to here is in `events`, or gone. */
      readonly upTo: Position;
      /** Right before `events`. */
      readonly missing: Missing | undefined;
    }
  | FellBack;

/** The store has lost entries up to the place asked for; `to` is where to go on. */
export interface FellBack {
  readonly status: 'fell_back';
  readonly to: Position;
}

// Until pages have told better: small first pages, because an entry may carry an image of some MiB.
const FIRST_GUESS_BYTES = 32 * 1024;

export class PageReader {
  readonly #stream: EventStream;
  readonly #limits: FeedLimits;
  readonly #few: Few;
  #entryBytes = FIRST_GUESS_BYTES;

  constructor(stream: EventStream, limits: FeedLimits) {
    this.#stream = stream;
    this.#limits = limits;
    this.#few = new Few(limits.reads);
  }

  /** `known`: a place up to which entries were there before this call, so what does not come up to it is gone. */
  read(shard: number, after: Position, known: Position): Promise<Page> {
    return this.#few.run(async () => {
      const count = Math.max(
        1,
        Math.min(this.#limits.pageEntries, Math.floor(this.#limits.pageBytes / this.#entryBytes)),
      );
      // The bounds are asked for after the page: had something been trimmed before the page was read, they show it.
      const [entries, bounds] = await Promise.all([
        this.#stream.read(shard, formatPosition(after), count),
        this.#stream.bounds(shard),
      ]);
      const events = entries.map((entry) => new OutgoingEvent(shard, parsePosition(entry.id), entry.event));
      const missing = missingBefore(events[0]?.position, after, known, bounds);
      if (missing === 'fell_back') return this.#fallBack(shard, after, bounds);
      if (events.length > 0) this.#learn(events);
      return { status: 'read', events, upTo: events.at(-1)?.position ?? known, missing };
    });
  }

  /** The end of the shard's stream. */
  end(shard: number): Promise<Position> {
    return this.#few.run(async () => parsePosition((await this.#stream.bounds(shard)).last));
  }

  /** Is the entry at `place`, which somebody has brought along, still the one that the store has there? A page that goes on after it would
   *  not always tell: a store that fell back may have caught up with the number. */
  verify(shard: number, place: Position): Promise<'there' | FellBack> {
    return this.#few.run(async () => {
      const [[entry], bounds] = await Promise.all([
        this.#stream.read(shard, formatPosition(justBefore(place)), 1),
        this.#stream.bounds(shard),
      ]);
      const found = entry && parsePosition(entry.id);
      return isSameHistory(place, found, bounds) ? 'there' : this.#fallBack(shard, place, bounds);
    });
  }

  async #fallBack(shard: number, seen: Position, bounds: StreamBounds): Promise<FellBack> {
    const last = parsePosition(bounds.last);
    return { status: 'fell_back', to: await rewindPlace(this.#stream, shard, seen, last, this.#limits.rewindMs) };
  }

  #learn(events: readonly OutgoingEvent[]): void {
    let bytes = 0;
    for (const event of events) bytes += event.record.data.length + 256;
    const average = bytes / events.length;
    // Up at once, down slowly: one page too many costs less than one page too large.
    this.#entryBytes = average > this.#entryBytes ? average : this.#entryBytes * 0.7 + average * 0.3;
  }
}

/** Takes a page into what a reader has read, and answers the gap that it has to be told of first. `fromOldest`: it asked for whatever is kept,
 *  so what went before is nothing that it misses. */
export function addPage(
  catchUp: CatchUp,
  shard: number,
  page: Page,
  filter: EventFilter,
  fromOldest: boolean,
): Gap | undefined {
  const after = catchUp.read(shard);
  if (page.status === 'fell_back') {
    catchUp.jump(shard, page.to);
    return gapBetween(shard, page.to, justBehind(after), 'rewound');
  }
  const { missing } = page;
  // So that a cursor told with the gap lies behind it.
  if (missing !== undefined) catchUp.jump(shard, justBefore(missing.to));
  catchUp.add(
    shard,
    page.events.filter(({ record }) => filter.matches(record)),
    page.upTo,
  );
  const isMissed = missing !== undefined && !(fromOldest && comparePositions(after, ORIGIN) === 0);
  return isMissed ? gapBetween(shard, missing.from, missing.to, 'trimmed') : undefined;
}

/** What lay between `after` and `next`, the first entry that was read after it (undefined: none was). */
export function missingBefore(
  next: Position | undefined,
  after: Position,
  known: Position,
  bounds: StreamBounds,
): Missing | 'fell_back' | undefined {
  const last = parsePosition(bounds.last);
  if (isBeyond(after, last)) return 'fell_back';
  if (next === undefined && comparePositions(known, after) <= 0) return undefined;
  const to = next ?? justBehind(known);
  const oldestKept = bounds.first === undefined ? last.seq + 1 : parsePosition(bounds.first).seq;
  const missing: Missing = { from: after, to };
  // An entry that is kept, older than a time of day, shows that nothing after that time was trimmed.
  if (!isNumbered(after)) return to.seq > 1 && oldestKept >= to.seq ? missing : undefined;
  if (to.seq === after.seq + 1) return undefined;
  // Retention takes from the old end only. A number that is not above the last one, or a hole behind entries that are kept: another history.
  return to.seq <= after.seq || oldestKept < to.seq ? 'fell_back' : missing;
}

/** `found`: the first entry at `place` or after it. */
export function isSameHistory(place: Position, found: Position | undefined, bounds: StreamBounds): boolean {
  if (isBeyond(place, parsePosition(bounds.last))) return false;
  const oldestKept = bounds.first === undefined ? undefined : parsePosition(bounds.first).seq;
  // Trimmed: nobody can tell.
  if (oldestKept === undefined || oldestKept > place.seq) return true;
  // A place behind a gap bears the time of the entry that follows it.
  return found !== undefined && [found, justBefore(found)].some((each) => comparePositions(each, place) === 0);
}

/** The same for a reader who stands at `place`; `found`: the first two entries at `place` or after it. */
export function missingAfter(
  place: Position,
  found: readonly Position[],
  bounds: StreamBounds,
): Missing | 'fell_back' | undefined {
  if (!isSameHistory(place, found[0], bounds)) return 'fell_back';
  const next = found.find((each) => comparePositions(each, place) > 0);
  return missingBefore(next, place, place, bounds);
}
