/** Answers one page of stored events: those after a start point that pass a filter, of all shards, in order of time. For platforms that fetch
 *  instead of listening. Needs no tail.
 *  The work of one page is bounded by what it reads, not by what it finds: where little matches, a page ends early and empty, and its cursor
 *  still leads on. Cursors are those of the live feed, with the same promise: they may repeat, they never skip (I5.2).
 *  Store away: rejects with `broker_unavailable`. */

import { CatchUp } from './catch-up.ts';
import { encodeCursor, type StartPoint, startPosition } from './cursor.ts';
import { type Gap, gapBetween } from './event-sink.ts';
import type { EventFilter } from './filter.ts';
import type { OutgoingEvent } from './outgoing-event.ts';
import { addPage, type PageReader } from './page-reader.ts';
import { justBehind, ORIGIN, type Position } from './position.ts';

export interface EventPage {
  readonly events: readonly OutgoingEvent[];
  /** Each lies before the events of its shard that follow it by id. */
  readonly gaps: readonly Gap[];
  /** Where the next page begins. */
  readonly cursor: string;
  /** False when everything was passed on that was stored when the page was asked for. */
  readonly more: boolean;
}

export interface PageRequest {
  readonly filter: EventFilter;
  readonly start: StartPoint;
  /** Events at most; at least 1. */
  readonly limit: number;
}

export interface PageBounds {
  /** Of the events of one page as JSON; one event may be larger. */
  readonly answerBytes: number;
  /** Of what one page reads. */
  readonly scanBytes: number;
}

/** What an entry costs to read beside its data. */
const ENTRY_BYTES = 1024;

/** `named`: the shards that the filter can meet, ascending; of `shards` altogether. `isWanted` turns false when the asker has gone. */
export async function readEventPage(
  pages: PageReader,
  shards: number,
  named: readonly number[],
  { filter, start, limit }: PageRequest,
  bounds: PageBounds,
  isWanted: () => boolean,
): Promise<EventPage> {
  const ends = new Map<number, Position>();
  await Promise.all(named.map(async (shard) => ends.set(shard, await pages.end(shard))));
  const endOf = (shard: number): Position => ends.get(shard) ?? ORIGIN;
  const catchUp = new CatchUp(named.map((shard) => [shard, startPosition(start, shard, endOf(shard))]));
  const gaps: Gap[] = [];
  if (start.from === 'cursor' || start.from === 'event') {
    await Promise.all(
      named.map(async (shard) => {
        const place = catchUp.passed(shard);
        const answer = place.seq > 0 ? await pages.verify(shard, place) : 'there';
        if (answer === 'there') return;
        catchUp.jump(shard, answer.to);
        gaps.push(gapBetween(shard, answer.to, justBehind(place), 'rewound'));
      }),
    );
  }
  const events: OutgoingEvent[] = [];
  let answerBytes = 0;
  let scanBytes = 0;
  let next = catchUp.next(endOf);
  while (next.status !== 'done' && events.length < limit && isWanted()) {
    if (next.status === 'event') {
      answerBytes += next.event.json().length;
      if (events.length > 0 && answerBytes > bounds.answerBytes) break;
      catchUp.pass(next.event);
      events.push(next.event);
    } else {
      if (scanBytes > bounds.scanBytes) break;
      const unread = catchUp.unread(endOf);
      await Promise.all(
        unread.map(async (shard) => {
          const page = await pages.read(shard, catchUp.read(shard), endOf(shard));
          if (page.status === 'read')
            for (const { record } of page.events) scanBytes += record.data.length + ENTRY_BYTES;
          const gap = addPage(catchUp, shard, page, filter, start.from === 'start');
          if (gap !== undefined) gaps.push(gap);
        }),
      );
    }
    next = catchUp.next(endOf);
  }
  return {
    events,
    gaps,
    cursor: encodeCursor(shards, named, (shard) => catchUp.passed(shard)),
    more: next.status !== 'done',
  };
}
