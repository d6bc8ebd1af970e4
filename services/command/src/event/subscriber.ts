/** One subscriber of the live feed. Two states: *live*, the tail hands it every event and its place is the tail's; *behind*, it reads pages at
 *  the pace of its own connection. It becomes live in the same tick in which everything up to the tail is passed on: no hole, no double.
 *  Its connection never holds more than the bounds of FEED_LIMITS; when the next event would pass them, it falls behind.
 *  A cursor taken from it may repeat events, it never skips one (I5.2). Gaps are told before what comes after them.
 *  Store away: a subscriber behind tries again until it is closed; a live one hears nothing. */

import { BrokerError } from '@lapi-broker/protocol';
import type { Clock } from '@lapi-broker/runtime';
import { CatchUp } from './catch-up.ts';
import { encodeCursor, type StartPoint, startPosition } from './cursor.ts';
import { type CloseReason, type EventSink, type Gap, gapBetween } from './event-sink.ts';
import type { EventTail } from './event-tail.ts';
import type { FeedLimits, FeedLog } from './feed-limits.ts';
import type { EventFilter } from './filter.ts';
import type { OutgoingEvent } from './outgoing-event.ts';
import { addPage, type PageReader } from './page-reader.ts';
import { comparePositions, isNumbered, justBefore, justBehind, latest, type Position } from './position.ts';

/** Subscribers that look at the same shards have the same cursor while they are live: it is written once per event. */
export interface ShardSet {
  readonly key: string;
  /** Ascending. */
  readonly shards: readonly number[];
  has(shard: number): boolean;
  users: number;
  cursor: string;
  /** `moves` of the tail at which `cursor` was written. */
  cursorAt: number;
}

export interface FeedCounts {
  subscribers: number;
  behind: number;
  delivered: number;
  gaps: number;
  slowClosed: number;
}

/** What all subscribers of a feed share. */
export interface FeedCommons {
  readonly tail: EventTail;
  readonly pages: PageReader;
  readonly clock: Clock;
  readonly log: FeedLog;
  readonly limits: FeedLimits;
  readonly counts: FeedCounts;
  /** All connections together hold too much: each gets less. */
  tight: boolean;
}

export class Subscriber {
  readonly filter: EventFilter;
  readonly set: ShardSet;
  readonly #commons: FeedCommons;
  readonly #sink: EventSink;
  /** Asked for the oldest event there is, so nothing before that can be missed. */
  readonly #fromOldest: boolean;
  /** Undefined while live. */
  #catchUp: CatchUp | undefined;
  /** Live, but these shards were read further than the tail has come: what the tail brings up to there is known already. */
  #ahead: Map<number, Position> | undefined;
  /** Shards whose starting place was brought along, and must be compared with the store before anything is passed on. */
  #unverified: readonly number[] = [];
  #lastCursor: string | undefined;
  #wake: (() => void) | undefined;
  /** Since when it is no longer live because its connection was slow. */
  #slowSinceMs: number | undefined;
  /** Since when its connection has taken nothing although bytes wait. */
  #stuckSinceMs: number | undefined;
  #lastSentMs: number;
  #unflushed: boolean = false;

  constructor(commons: FeedCommons, filter: EventFilter, set: ShardSet, sink: EventSink, start: StartPoint) {
    this.#commons = commons;
    this.filter = filter;
    this.set = set;
    this.#sink = sink;
    this.#fromOldest = start.from === 'start';
    this.#lastSentMs = commons.clock.monotonicMs();
    if (start.from !== 'now') this.#begin(start);
  }

  get closed(): boolean {
    return this.#lastCursor !== undefined;
  }

  /** Where to resume. Stays readable after the end. */
  cursor(): string {
    if (this.#lastCursor !== undefined) return this.#lastCursor;
    const { tail } = this.#commons;
    const { set } = this;
    const catchUp = this.#catchUp;
    if (catchUp !== undefined) return encodeCursor(tail.shards, set.shards, (shard) => catchUp.passed(shard));
    if (this.#ahead !== undefined) return encodeCursor(tail.shards, set.shards, (shard) => this.#livePlace(shard));
    if (set.cursorAt !== tail.moves) {
      set.cursor = encodeCursor(tail.shards, set.shards, (shard) => tail.position(shard));
      set.cursorAt = tail.moves;
    }
    return set.cursor;
  }

  /** The tail has reached `event`, coming from `previous`. True when this is the first thing given to the sink since the last `flush`. */
  offer(event: OutgoingEvent, previous: Position): boolean {
    if (this.#catchUp !== undefined) return false; // It reads this event itself.
    if (this.#ahead !== undefined && this.#isKnown(event)) return false;
    if (!this.filter.matches(event.record)) return false;
    // What this tick has brought so far may be all that fills it.
    if (!this.#hasRoom(event) && this.#unflushed) this.flush(this.#commons.clock.monotonicMs());
    if (this.closed) return false;
    if (!this.#hasRoom(event)) {
      this.#fallBehind(event.shard, previous);
      return false;
    }
    const first = !this.#unflushed;
    this.#give(event);
    return first;
  }

  flush(nowMs: number): void {
    this.#lastSentMs = nowMs;
    this.#unflushed = false;
    this.#sink.flush();
    this.#wakeIfTaken();
  }

  /** The connection took bytes that had to wait. */
  drained(): void {
    this.#stuckSinceMs = undefined;
    this.#wakeIfTaken();
  }

  /** The place of the tail went back: the store has lost what lay between. */
  rewound(shard: number, from: Position, to: Position): void {
    const catchUp = this.#catchUp;
    const known = catchUp?.passed(shard) ?? this.#ahead?.get(shard) ?? from;
    // A time of day means the same in the other history.
    if (!isNumbered(known)) return;
    if (comparePositions(known, to) <= 0) {
      catchUp?.forget(shard);
      return;
    }
    if (catchUp !== undefined) catchUp.jump(shard, to);
    else if (this.#ahead?.delete(shard) === true && this.#ahead.size === 0) this.#ahead = undefined;
    this.#tellGap(gapBetween(shard, to, justBehind(known), 'rewound'));
  }

  /** The tail has not met what lies after `from` and before `to`. */
  missed(shard: number, from: Position, to: Position): void {
    if (this.#catchUp !== undefined) return; // It reads the store, and meets the same.
    const known = latest(this.#ahead?.get(shard) ?? from, from);
    if (comparePositions(known, justBefore(to)) < 0) this.#tellGap(gapBetween(shard, known, to, 'trimmed'));
  }

  /** Once a second or so: heartbeat, and the verdict on a connection that takes too little. Answers the bytes that wait in it. */
  sweep(nowMs: number): { readonly waitingBytes: number; readonly slow: boolean } {
    const { heartbeatMs, slowGraceMs } = this.#commons.limits;
    const waitingBytes = this.#sink.waitingBytes();
    if (waitingBytes === 0) this.#stuckSinceMs = undefined;
    else this.#stuckSinceMs ??= nowMs;
    const slow = isOver(this.#stuckSinceMs, nowMs, slowGraceMs) || isOver(this.#slowSinceMs, nowMs, slowGraceMs);
    if (!slow && waitingBytes === 0 && nowMs - this.#lastSentMs >= heartbeatMs) {
      this.#sink.heartbeat(this.cursor(), this.#commons.tail.storeAway);
      this.flush(nowMs);
    }
    return { waitingBytes, slow };
  }

  /** `reason` undefined: the peer went, so there is nobody to tell. Idempotent. */
  close(reason: CloseReason | undefined): void {
    if (this.closed) return;
    const cursor = this.cursor();
    if (this.#catchUp !== undefined) this.#commons.counts.behind -= 1;
    this.#catchUp = undefined;
    this.#lastCursor = cursor;
    this.#wake?.();
    if (reason !== undefined) this.#sink.closed(reason, cursor);
  }

  #give(event: OutgoingEvent): void {
    this.#unflushed = true;
    this.#sink.event(event, this.cursor());
    this.#commons.counts.delivered += 1;
  }

  #hasRoom(event: OutgoingEvent): boolean {
    const waiting = this.#sink.waitingBytes();
    if (waiting === 0) return true;
    const { limits, tight } = this.#commons;
    const bound = tight ? limits.lowWaterBytes : limits.waitingBytes;
    return waiting + event.json().length <= bound && this.#sink.waitingMessages() < limits.waitingMessages;
  }

  #takes(): boolean {
    return this.#sink.waitingBytes() < this.#commons.limits.lowWaterBytes;
  }

  #wakeIfTaken(): void {
    if (this.#wake !== undefined && this.#takes()) this.#wake();
  }

  #tailPlace(shard: number): Position {
    return this.#commons.tail.position(shard);
  }

  #livePlace(shard: number): Position {
    const ahead = this.#ahead?.get(shard);
    return ahead === undefined ? this.#tailPlace(shard) : latest(ahead, this.#tailPlace(shard));
  }

  #isKnown(event: OutgoingEvent): boolean {
    const known = this.#ahead?.get(event.shard);
    if (known === undefined) return false;
    if (comparePositions(event.position, known) <= 0) return true;
    this.#ahead?.delete(event.shard);
    if (this.#ahead?.size === 0) this.#ahead = undefined;
    return false;
  }

  #begin(start: StartPoint): void {
    const places = this.set.shards.map(
      (shard) => [shard, startPosition(start, shard, this.#tailPlace(shard))] as const,
    );
    if (start.from === 'cursor' || start.from === 'event') {
      this.#unverified = places.filter(([, place]) => place.seq > 0).map(([shard]) => shard);
    }
    this.#run(new CatchUp(places));
  }

  #fallBehind(shardOfEvent: number, previous: Position): void {
    const places = this.set.shards.map(
      (shard) => [shard, shard === shardOfEvent ? previous : this.#livePlace(shard)] as const,
    );
    this.#ahead = undefined;
    this.#slowSinceMs = this.#commons.clock.monotonicMs();
    this.#run(new CatchUp(places), 'wait first');
  }

  #run(catchUp: CatchUp, first?: 'wait first'): void {
    this.#catchUp = catchUp;
    this.#commons.counts.behind += 1;
    void this.#readOn(catchUp, first === 'wait first');
  }

  /** Runs until the subscriber is live or closed. Never rejects. */
  async #readOn(catchUp: CatchUp, waitFirst: boolean): Promise<void> {
    let full = waitFirst;
    // The sink is first called after the tick of joining, so that whoever joined can greet its peer before.
    await Promise.resolve();
    while (this.#catchUp === catchUp) {
      // Asked at this moment, because a flush in between may have emptied it, and then nothing would wake us.
      if ((full && this.#sink.waitingBytes() > 0) || !this.#takes()) {
        full = false;
        catchUp.forget();
        await this.#woken();
        continue;
      }
      try {
        if (this.#unverified.length > 0) {
          await Promise.all(this.#unverified.map((shard) => this.#verifyStart(catchUp, shard)));
          this.#unverified = [];
        }
        if (this.#catchUp !== catchUp) return;
        const status = this.#passOn(catchUp);
        if (status === 'live') return;
        full = status === 'full';
        if (status === 'read_needed') await this.#readPages(catchUp);
      } catch (error) {
        if (!(error instanceof BrokerError)) this.#commons.log.warn({ err: error }, 'feed.read_failed');
        catchUp.forget();
        // Spread, because a store that comes back meets all of them at once.
        await this.#woken(this.#commons.limits.retryMs * (1 + Math.random()));
      }
    }
  }

  /** Until the connection takes bytes again, this is closed, or the time is over. */
  async #woken(afterMs?: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (afterMs !== undefined) timer = setTimeout(resolve, afterMs);
    });
    clearTimeout(timer);
    this.#wake = undefined;
  }

  /** In one tick: passes on what is read and what memory has, until the sink is full, a page is missing, or it is live. */
  #passOn(catchUp: CatchUp): 'live' | 'full' | 'read_needed' {
    const tailOf = (shard: number): Position => this.#tailPlace(shard);
    let status: 'live' | 'full' | 'read_needed' | undefined;
    while (status === undefined) {
      const next = catchUp.next(tailOf);
      if (next.status === 'done') status = 'live';
      else if (next.status === 'read_needed') status = this.#takeRecent(catchUp) ? undefined : 'read_needed';
      else if (!this.#hasRoom(next.event)) status = 'full';
      else {
        catchUp.pass(next.event);
        this.#give(next.event);
      }
    }
    if (status === 'live') this.#goLive(catchUp);
    if (this.#unflushed) this.flush(this.#commons.clock.monotonicMs());
    return status;
  }

  /** False when the store must be read. */
  #takeRecent(catchUp: CatchUp): boolean {
    const { tail } = this.#commons;
    let complete = true;
    for (const shard of catchUp.unread((each) => tail.position(each))) {
      const recent = tail.recent(shard);
      const read = catchUp.read(shard);
      if (recent.covers(read)) catchUp.add(shard, this.#wanted(recent.after(read)), tail.position(shard));
      else complete = false;
    }
    return complete;
  }

  #wanted(events: readonly OutgoingEvent[]): OutgoingEvent[] {
    return events.filter((event) => this.filter.matches(event.record));
  }

  #goLive(catchUp: CatchUp): void {
    const ahead = new Map<number, Position>();
    for (const shard of this.set.shards) {
      const passed = catchUp.passed(shard);
      if (comparePositions(passed, this.#tailPlace(shard)) > 0) ahead.set(shard, passed);
    }
    this.#ahead = ahead.size > 0 ? ahead : undefined;
    this.#catchUp = undefined;
    this.#slowSinceMs = undefined;
    this.#commons.counts.behind -= 1;
  }

  async #readPages(catchUp: CatchUp): Promise<void> {
    const shards = catchUp.unread((shard) => this.#tailPlace(shard));
    // Settled, not all: a page of a healthy shard must not come in after the loop has gone on.
    const results = await Promise.allSettled(shards.map((shard) => this.#readPage(catchUp, shard)));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  async #readPage(catchUp: CatchUp, shard: number): Promise<void> {
    const { tail, pages } = this.#commons;
    const after = catchUp.read(shard);
    if (tail.recent(shard).covers(after)) return; // Memory has it; the next pass takes it.
    const page = await pages.read(shard, after, tail.position(shard));
    // Closed or rewound meanwhile: the page is of no use.
    if (this.#catchUp !== catchUp || catchUp.read(shard) !== after) return;
    const gap = addPage(catchUp, shard, page, this.filter, this.#fromOldest);
    if (gap !== undefined) this.#tellGap(gap);
  }

  /** A place ahead of the tail is either news of another process, or of a store that has lost its last writes; one behind it may be of a
   *  history that the store has given up. */
  async #verifyStart(catchUp: CatchUp, shard: number): Promise<void> {
    const { tail, pages } = this.#commons;
    const place = catchUp.passed(shard);
    if (comparePositions(place, tail.position(shard)) === 0 || tail.recent(shard).has(place)) return;
    const answer = await pages.verify(shard, place);
    if (this.#catchUp !== catchUp || catchUp.passed(shard) !== place || answer === 'there') return;
    catchUp.jump(shard, answer.to);
    this.#tellGap(gapBetween(shard, answer.to, justBehind(place), 'rewound'));
  }

  #tellGap(gap: Gap): void {
    this.#commons.counts.gaps += 1;
    this.#sink.gap(gap, this.cursor());
    this.flush(this.#commons.clock.monotonicMs());
  }
}

function isOver(sinceMs: number | undefined, nowMs: number, graceMs: number): boolean {
  return sinceMs !== undefined && nowMs - sinceMs >= graceMs;
}
