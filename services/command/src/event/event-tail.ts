/** The live end of the event stream: one ordered flow of all shards per process, its place in each shard, and its last events.
 *
 *  Entries of a shard are numbered without a hole, so an entry that does not follow the one before says at once that the flow is not whole. Then
 *  the store is asked why, and the flow opened anew: from its place, where the store still has what was skipped; behind a gap, reported as
 *  missed before what follows, where retention has taken it; or, where the store has lost entries that had come by, a little further back,
 *  reported as rewound, because what the store took since may lie before the old place (D9). What a silent flow cannot show, an audit asks
 *  every `auditMs`: whether the store is away, has become shorter, or has entries that do not arrive.
 *  Store away: the flow stops and goes on later from its own place; `storeAway` says so. `open` fails with `broker_unavailable`. */

import type { EntryId, EventStream, StreamBounds, StreamEntry, Tail } from '@lapi-broker/bus';
import type { Clock } from '@lapi-broker/runtime';
import type { FeedLimits, FeedLog } from './feed-limits.ts';
import { OutgoingEvent } from './outgoing-event.ts';
import { type Missing, missingAfter } from './page-reader.ts';
import {
  comparePositions,
  countBetween,
  earliest,
  formatPosition,
  isBeyond,
  justBefore,
  ORIGIN,
  type Position,
  parsePosition,
} from './position.ts';
import { RecentEvents } from './recent-events.ts';
import { rewindPlace } from './rewind.ts';

export interface TailListener {
  /** In order per shard. `previous` is the place of the tail before this event. */
  onEvent(event: OutgoingEvent, previous: Position): void;
  /** After the last event of a batch. */
  onBatchEnd(): void;
  /** Events after `from` and before `to` have not come by. The place of the tail is right before `to`. */
  onMissed(shard: number, from: Position, to: Position): void;
  /** The place of the tail went back from `from` to `to`. */
  onRewound(shard: number, from: Position, to: Position): void;
}

interface ShardTail {
  position: Position;
  readonly recent: RecentEvents;
  /** The store is known to have lost entries up to `position`, and ended here when that was found. */
  fellBackTo: Position | undefined;
  /** Number that an audit saw ahead of the tail, and when. */
  expected: { readonly seq: number; readonly sinceMs: number } | undefined;
}

export class EventTail {
  readonly shards: number;
  readonly #stream: EventStream;
  readonly #clock: Clock;
  readonly #log: FeedLog;
  readonly #limits: FeedLimits;
  readonly #listener: TailListener;
  readonly #tails: readonly ShardTail[];
  #state: 'closed' | 'open' = 'closed';
  #opening: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #reopening: Promise<void> | undefined;
  #follower: { readonly tail: Tail; readonly generation: number } | undefined;
  /** Callbacks and audits of an older follower are not ours any more. */
  #generation = 0;
  #auditTimer: NodeJS.Timeout | undefined;
  #auditing: boolean = false;
  #storeAway = false;
  #moves = 0;

  constructor(stream: EventStream, clock: Clock, log: FeedLog, limits: FeedLimits, listener: TailListener) {
    this.shards = stream.shards;
    this.#stream = stream;
    this.#clock = clock;
    this.#log = log;
    this.#limits = limits;
    this.#listener = listener;
    const recentBytes = Math.floor(limits.recentBytes / stream.shards);
    this.#tails = Array.from({ length: stream.shards }, () => ({
      position: ORIGIN,
      recent: new RecentEvents(ORIGIN, recentBytes, limits.recentEntries),
      fellBackTo: undefined,
      expected: undefined,
    }));
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  get storeAway(): boolean {
    return this.#storeAway;
  }

  /** Grows with every change of any place. */
  get moves(): number {
    return this.#moves;
  }

  position(shard: number): Position {
    return this.#of(shard).position;
  }

  recent(shard: number): RecentEvents {
    return this.#of(shard).recent;
  }

  /** Resolves when the flow has begun, at the end of every shard. Idempotent. */
  async open(): Promise<void> {
    await this.#closing;
    if (this.#state === 'open') return;
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    await this.#opening;
  }

  /** Idempotent. Never rejects. */
  async close(): Promise<void> {
    this.#closing ??= this.#close().finally(() => {
      this.#closing = undefined;
    });
    await this.#closing;
  }

  async #open(): Promise<void> {
    const found = await Promise.all(this.#tails.map((_, shard) => this.#stream.bounds(shard)));
    this.#tails.forEach((tail, shard) => {
      tail.position = parsePosition((found[shard] as StreamBounds).last);
      tail.recent.reset(tail.position);
      tail.fellBackTo = undefined;
      tail.expected = undefined;
    });
    this.#moves += 1;
    this.#state = 'open';
    try {
      this.#generation += 1;
      await this.#follow(this.#generation);
    } catch (error) {
      this.#state = 'closed';
      throw error;
    }
    this.#storeAway = false;
    this.#auditTimer = setInterval(() => void this.#audit(), this.#limits.auditMs);
  }

  async #close(): Promise<void> {
    await this.#opening?.catch(() => {}); // Whoever opened it has the error.
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#generation += 1;
    clearInterval(this.#auditTimer);
    await this.#reopening;
    await this.#closeFollower();
    for (const tail of this.#tails) tail.recent.reset(tail.position);
  }

  /** One follower at a time, from the places as they are. One that was overtaken while it was opened (rewound, closed) is let go. */
  async #follow(generation: number): Promise<void> {
    const from = new Map<number, EntryId>(this.#tails.map((tail, shard) => [shard, formatPosition(tail.position)]));
    const tail = await this.#stream.tail(
      from,
      (shard, entries) => {
        if (generation === this.#generation) this.#onEntries(shard, entries);
      },
      // The follower itself would go on with what it has not called back yet. That is not enough here: subscribers that are behind have
      // not seen the rest either. So it is opened anew, further back.
      (shard, to) => {
        if (generation === this.#generation) this.#fellBack(shard, this.#of(shard), parsePosition(to));
      },
    );
    if (generation === this.#generation) this.#follower = { tail, generation };
    else await this.#letGo(tail);
  }

  async #closeFollower(): Promise<void> {
    const follower = this.#follower;
    this.#follower = undefined;
    if (follower !== undefined) await this.#letGo(follower.tail);
  }

  async #letGo(tail: Tail): Promise<void> {
    try {
      await tail.close();
    } catch (error) {
      this.#log.warn({ err: error }, 'feed.tail_close_failed');
    }
  }

  #reopen(): void {
    this.#generation += 1;
    this.#reopening ??= this.#reopenUntilDone();
  }

  async #reopenUntilDone(): Promise<void> {
    do {
      await this.#closeFollower();
      this.#generation += 1;
      const generation = this.#generation;
      try {
        await Promise.all(this.#tails.map((tail, shard) => this.#findPlace(shard, tail)));
        await this.#follow(generation);
      } catch (error) {
        this.#log.warn({ err: error }, 'feed.tail_reopen_failed');
        await new Promise((resolve) => setTimeout(resolve, this.#limits.retryMs));
      }
    } while (this.#state === 'open' && this.#follower?.generation !== this.#generation);
    // In the tick of the last look, so that no wish to reopen is lost between the two.
    this.#reopening = undefined;
  }

  #onEntries(shard: number, entries: readonly StreamEntry[]): void {
    const tail = this.#of(shard);
    for (const entry of entries) {
      const position = parsePosition(entry.id);
      const previous = tail.position;
      const isYounger = comparePositions(position, previous) > 0;
      // The port promises each entry once; this would be a second time.
      if (!isYounger && position.seq <= previous.seq) continue;
      if (!isYounger || position.seq !== previous.seq + 1) {
        // Why, only the store can tell; the rest of the batch comes again.
        this.#reopen();
        break;
      }
      const event = new OutgoingEvent(shard, position, entry.event);
      tail.recent.push(event);
      tail.position = position;
      this.#moves += 1;
      this.#listener.onEvent(event, previous);
    }
    this.#listener.onBatchEnd();
  }

  async #audit(): Promise<void> {
    if (this.#auditing) return; // A slow store; its deadline ends the audit under way.
    this.#auditing = true;
    try {
      const answers = await Promise.all(this.#tails.map((_, shard) => this.#auditShard(shard)));
      const away = answers.includes('away');
      if (away !== this.#storeAway) this.#log.warn({ away }, 'feed.store_away_changed');
      this.#storeAway = away;
    } finally {
      this.#auditing = false;
    }
  }

  async #auditShard(shard: number): Promise<'seen' | 'away'> {
    const tail = this.#of(shard);
    const { position } = tail;
    const generation = this.#generation;
    let last: Position;
    try {
      last = parsePosition((await this.#stream.bounds(shard)).last);
    } catch {
      return 'away'; // The caller logs the change, once.
    }
    if (generation !== this.#generation || this.#state !== 'open' || tail.fellBackTo !== undefined) return 'seen';
    // Compared with the place at the time of asking: the tail may have moved on since.
    if (isBeyond(position, last)) {
      this.#fellBack(shard, tail, last);
      return 'seen';
    }
    const nowMs = this.#clock.monotonicMs();
    const { expected } = tail;
    if (expected === undefined || expected.seq <= tail.position.seq) {
      tail.expected = last.seq > tail.position.seq ? { seq: last.seq, sinceMs: nowMs } : undefined;
    } else if (nowMs - expected.sinceMs > this.#limits.tailStallMs) {
      this.#log.warn({ shard, at: formatPosition(tail.position) }, 'feed.tail_stalled');
      tail.expected = undefined;
      this.#reopen();
    }
    return 'seen';
  }

  #fellBack(shard: number, tail: ShardTail, last: Position): void {
    this.#log.warn({ shard, at: formatPosition(tail.position), last: formatPosition(last) }, 'feed.store_fell_back');
    tail.fellBackTo = earliest(last, tail.fellBackTo ?? last);
    tail.expected = undefined;
    this.#reopen();
  }

  /** Where the flow of a shard goes on, by what the store has there now. */
  async #findPlace(shard: number, tail: ShardTail): Promise<void> {
    const { position: from, fellBackTo } = tail;
    let last = fellBackTo;
    let missing: Missing | undefined;
    if (last === undefined) {
      const [entries, bounds] = await Promise.all([
        this.#stream.read(shard, formatPosition(justBefore(from)), 2),
        this.#stream.bounds(shard),
      ]);
      const found = entries.map(({ id }) => parsePosition(id));
      const finding = missingAfter(from, found, bounds);
      if (finding === 'fell_back') last = parsePosition(bounds.last);
      else missing = finding;
    }
    const to = last && (await rewindPlace(this.#stream, shard, from, last, this.#limits.rewindMs));
    // Closed, or found to have fallen back further meanwhile; then this is done again.
    if (this.#state !== 'open' || tail.fellBackTo !== fellBackTo) return;
    if (to !== undefined) {
      this.#log.warn({ shard, from: formatPosition(from), to: formatPosition(to) }, 'feed.rewound');
      tail.fellBackTo = undefined;
      this.#moveTo(tail, to);
      this.#listener.onRewound(shard, from, to);
    } else if (missing !== undefined) {
      this.#log.warn({ shard, count: countBetween(from, missing.to) }, 'feed.tail_missed');
      this.#moveTo(tail, justBefore(missing.to));
      this.#listener.onMissed(shard, from, missing.to);
    }
  }

  #moveTo(tail: ShardTail, place: Position): void {
    tail.position = place;
    // What memory has does not lead up to it without a hole.
    tail.recent.reset(place);
    this.#moves += 1;
  }

  #of(shard: number): ShardTail {
    const tail = this.#tails[shard];
    if (tail === undefined) throw new RangeError(`shard ${shard} does not exist; there are ${this.shards}`);
    return tail;
  }
}
