/** What a subscriber that is not live has read and passed on: merges the pages of its shards into one flow in order of time.
 *  Order within a shard is never changed. An event is passed on only when no shard can still bring an older one, so a client that remembers
 *  just the last event id has missed nothing older elsewhere (but for clocks that differ, see cursor.ts).
 *  It never counts an event as passed before the caller says so: a position taken from here can repeat, never skip. Pure. */

import type { OutgoingEvent } from './outgoing-event.ts';
import { comparePositions, type Position } from './position.ts';

interface ShardProgress {
  /** Everything up to here was passed on, or is not wanted. */
  passed: Position;
  /** Everything up to here was read. */
  read: Position;
  /** Read and not yet passed on, oldest first, from `head`. */
  queue: readonly OutgoingEvent[];
  head: number;
}

export type Next =
  | { readonly status: 'event'; readonly event: OutgoingEvent }
  /** Some shard must be read before it is known which event is next. */
  | { readonly status: 'read_needed' }
  /** Everything up to the tail is passed on. */
  | { readonly status: 'done' };

const READ_NEEDED: Next = { status: 'read_needed' };
const DONE: Next = { status: 'done' };

export class CatchUp {
  readonly #shards = new Map<number, ShardProgress>();

  constructor(positions: Iterable<readonly [shard: number, position: Position]>) {
    for (const [shard, position] of positions) {
      this.#shards.set(shard, { passed: position, read: position, queue: [], head: 0 });
    }
  }

  passed(shard: number): Position {
    return this.#of(shard).passed;
  }

  read(shard: number): Position {
    return this.#of(shard).read;
  }

  /** Shards of which the next event is not known, given how far the tail is. */
  unread(tailOf: (shard: number) => Position): number[] {
    const found: number[] = [];
    for (const [shard, progress] of this.#shards) {
      if (progress.head >= progress.queue.length && comparePositions(progress.read, tailOf(shard)) < 0)
        found.push(shard);
    }
    return found;
  }

  /** `wanted`: of everything between the last read position and `upTo`, the events that the subscriber wants. Call only when nothing of the
   *  shard is waiting. */
  add(shard: number, wanted: readonly OutgoingEvent[], upTo: Position): void {
    const progress = this.#of(shard);
    progress.queue = wanted;
    progress.head = 0;
    progress.read = upTo;
    if (wanted.length === 0) progress.passed = upTo;
  }

  next(tailOf: (shard: number) => Position): Next {
    let oldest: OutgoingEvent | undefined;
    for (const [shard, progress] of this.#shards) {
      const head = progress.queue[progress.head];
      if (head === undefined) {
        if (comparePositions(progress.read, tailOf(shard)) < 0) return READ_NEEDED;
      } else if (oldest === undefined || comparePositions(head.position, oldest.position) < 0) {
        oldest = head;
      }
    }
    return oldest === undefined ? DONE : { status: 'event', event: oldest };
  }

  /** The event that `next` answered is passed on. */
  pass(event: OutgoingEvent): void {
    const progress = this.#of(event.shard);
    progress.head += 1;
    const left = progress.head < progress.queue.length;
    progress.passed = left ? event.position : progress.read;
    if (!left) progress.queue = [];
  }

  /** Drops what is read and waiting, of all shards or of one: it is read again. */
  forget(shard?: number): void {
    const dropped = shard === undefined ? this.#shards.values() : [this.#of(shard)];
    for (const progress of dropped) {
      progress.queue = [];
      progress.head = 0;
      progress.read = progress.passed;
    }
  }

  /** Goes on from another place, older or younger: a gap, which the caller reports. */
  jump(shard: number, to: Position): void {
    this.add(shard, [], to);
  }

  #of(shard: number): ShardProgress {
    const progress = this.#shards.get(shard);
    if (progress === undefined) throw new RangeError(`shard ${shard} is not part of this subscription`);
    return progress;
  }
}
