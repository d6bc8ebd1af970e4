/** The live end of the event stream: one ordered flow of all shards per process, its place in each shard, and its last events.
 *
 *  It is audited: every `auditMs` the store's own count of added entries is compared with what has come by. Entries that did not (trimmed
 *  away during an outage of this process) are reported as missed, with their number. A store that lost its last writes is reported as
 *  rewound; the tail then goes back a little and on from there, because what the store took since may lie before the old place (D9).
 *  Store away: the flow stops and goes on later from its own place; `storeAway` says so. `open` fails with `broker_unavailable`. */

import type { EntryId, EventStream, StreamBounds, StreamEntry, Tail } from '@lapi-broker/bus';
import type { Clock } from '@lapi-broker/runtime';
import type { FeedLimits, FeedLog } from './feed-limits.ts';
import { OutgoingEvent } from './outgoing-event.ts';
import {
  beforeTime,
  comparePositions,
  earliest,
  formatPosition,
  ORIGIN,
  type Position,
  parsePosition,
} from './position.ts';
import { RecentEvents } from './recent-events.ts';

export interface TailListener {
  /** In order per shard. `previous` is the place of the tail before this event. */
  onEvent(event: OutgoingEvent, previous: Position): void;
  /** After the last event of a batch. */
  onBatchEnd(): void;
  /** Events after `from` and up to `to` have not come by, `count` of them. */
  onMissed(shard: number, from: Position, to: Position, count: number): void;
  /** The place of the tail went back from `from` to `to`. */
  onRewound(shard: number, from: Position, to: Position): void;
}

interface ShardTail {
  position: Position;
  readonly recent: RecentEvents;
  /** Entries ever added up to `position`, by the store's count; undefined until an audit tells it anew. */
  ordinal: number | undefined;
  /** The place where `ordinal` was last found to be right. */
  audited: Position;
  /** What an audit saw ahead of the tail, to be compared when the tail gets there. */
  expected: { readonly last: Position; readonly added: number; readonly sinceMs: number } | undefined;
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
  #follower: Tail | undefined;
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
      ordinal: undefined,
      audited: ORIGIN,
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
      const bounds = found[shard] as StreamBounds;
      tail.position = parsePosition(bounds.last);
      tail.recent.reset(tail.position);
      tail.ordinal = bounds.added;
      tail.audited = tail.position;
      tail.expected = undefined;
    });
    this.#moves += 1;
    this.#state = 'open';
    try {
      await this.#follow();
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
  async #follow(): Promise<'following' | 'overtaken'> {
    this.#generation += 1;
    const generation = this.#generation;
    const from = new Map<number, EntryId>(this.#tails.map((tail, shard) => [shard, formatPosition(tail.position)]));
    const follower = await this.#stream.tail(
      from,
      (shard, entries) => {
        if (generation === this.#generation) this.#onEntries(shard, entries);
      },
      // The follower itself would go on with what it has not called back yet. That is not enough here: subscribers that are behind have
      // not seen the rest either. So it is opened anew, further back.
      (shard, to) => {
        if (generation === this.#generation) this.#rewind(shard, this.#of(shard), parsePosition(to));
      },
    );
    if (generation === this.#generation) {
      this.#follower = follower;
      return 'following';
    }
    await this.#letGo(follower);
    return 'overtaken';
  }

  async #closeFollower(): Promise<void> {
    const follower = this.#follower;
    this.#follower = undefined;
    if (follower !== undefined) await this.#letGo(follower);
  }

  async #letGo(follower: Tail): Promise<void> {
    try {
      await follower.close();
    } catch (error) {
      this.#log.warn({ err: error }, 'feed.tail_close_failed');
    }
  }

  #reopen(): void {
    this.#generation += 1;
    this.#reopening ??= this.#reopenUntilDone().finally(() => {
      this.#reopening = undefined;
    });
  }

  async #reopenUntilDone(): Promise<void> {
    while (this.#state === 'open') {
      await this.#closeFollower();
      try {
        if ((await this.#follow()) === 'following') return;
      } catch (error) {
        this.#log.warn({ err: error }, 'feed.tail_reopen_failed');
        await new Promise((resolve) => setTimeout(resolve, this.#limits.retryMs));
      }
    }
  }

  #onEntries(shard: number, entries: readonly StreamEntry[]): void {
    const generation = this.#generation;
    const tail = this.#of(shard);
    for (const entry of entries) {
      const position = parsePosition(entry.id);
      const previous = tail.position;
      // The port promises each entry once; one that is not younger than the place of the tail would be a second time.
      if (comparePositions(position, previous) <= 0) continue;
      const event = new OutgoingEvent(shard, position, entry.event);
      tail.recent.push(event);
      tail.position = position;
      this.#moves += 1;
      if (tail.ordinal !== undefined) tail.ordinal += 1;
      if (tail.expected !== undefined) this.#compare(shard, tail);
      // Rewound by the comparison: the rest of the batch comes again.
      if (generation !== this.#generation) break;
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
    const { position, ordinal } = tail;
    const generation = this.#generation;
    let bounds: StreamBounds;
    try {
      bounds = await this.#stream.bounds(shard);
    } catch {
      return 'away'; // The caller logs the change, once.
    }
    if (generation !== this.#generation || this.#state !== 'open') return 'seen';
    const last = parsePosition(bounds.last);
    // Compared with the place at the time of asking: the tail may have moved on since.
    if (comparePositions(last, position) < 0 || (ordinal !== undefined && bounds.added < ordinal)) {
      this.#rewind(shard, tail, last);
      return 'seen';
    }
    const nowMs = this.#clock.monotonicMs();
    if (tail.expected === undefined) {
      if (comparePositions(tail.position, last) <= 0) tail.expected = { last, added: bounds.added, sinceMs: nowMs };
      this.#compare(shard, tail);
    } else if (nowMs - tail.expected.sinceMs > this.#limits.tailStallMs) {
      this.#log.warn({ shard, at: formatPosition(tail.position) }, 'feed.tail_stalled');
      tail.expected = undefined;
      this.#reopen();
    }
    return 'seen';
  }

  /** Everything that was added up to `expected.last` has come by when the tail is there. Whatever has not is announced. */
  #compare(shard: number, tail: ShardTail): void {
    const { expected, ordinal, position, audited } = tail;
    if (expected === undefined) return;
    const order = comparePositions(position, expected.last);
    if (order < 0) return;
    tail.expected = undefined;
    // Past it without meeting it: the newest entry is one more than what was counted then.
    const added = order === 0 ? expected.added : expected.added + 1;
    if (ordinal !== undefined && ordinal > added) {
      this.#rewind(shard, tail, position);
      return;
    }
    tail.ordinal = added;
    tail.audited = position;
    if (ordinal === undefined || ordinal === added) return;
    this.#log.warn({ shard, count: added - ordinal }, 'feed.tail_missed');
    // What memory has is not without a hole any more.
    tail.recent.reset(position);
    this.#listener.onMissed(shard, audited, position, added - ordinal);
  }

  #rewind(shard: number, tail: ShardTail, last: Position): void {
    const from = tail.position;
    const to = rewindPoint(earliest(last, from), this.#limits.rewindMs);
    this.#log.warn({ shard, from: formatPosition(from), to: formatPosition(to) }, 'feed.rewound');
    tail.position = to;
    tail.recent.reset(to);
    tail.ordinal = undefined;
    tail.audited = to;
    tail.expected = undefined;
    this.#moves += 1;
    this.#reopen();
    this.#listener.onRewound(shard, from, to);
  }

  #of(shard: number): ShardTail {
    const tail = this.#tails[shard];
    if (tail === undefined) throw new RangeError(`shard ${shard} does not exist; there are ${this.shards}`);
    return tail;
  }
}

/** Where to read on in a store whose last entry is `last` and that has forgotten younger ones. */
export function rewindPoint(last: Position, rewindMs: number): Position {
  return earliest(last, beforeTime(Math.max(0, last.ms - rewindMs)));
}
