/** The last events of one shard as the tail delivered them, without a hole: `covers(position)` means that everything younger than it is here.
 *  Lets a subscriber that is nearly up to date join the live flow in one step, and spares the store the reads of many that are.
 *  Bounded in bytes and entries; the oldest leave first. Pure. */

import type { OutgoingEvent } from './outgoing-event.ts';
import { comparePositions, justBefore, type Position } from './position.ts';

export class RecentEvents {
  readonly #maxBytes: number;
  readonly #maxEntries: number;
  // A queue as an array with a moving start; cut off when the dead part outgrows the living.
  #events: (OutgoingEvent | undefined)[] = [];
  #start = 0;
  #bytes = 0;
  #since: Position;

  constructor(since: Position, maxBytes: number, maxEntries: number) {
    this.#since = since;
    this.#maxBytes = maxBytes;
    this.#maxEntries = maxEntries;
  }

  push(event: OutgoingEvent): void {
    this.#events.push(event);
    this.#bytes += event.bytes;
    while (this.#bytes > this.#maxBytes || this.#events.length - this.#start > this.#maxEntries) {
      const oldest = this.#events[this.#start] as OutgoingEvent;
      this.#events[this.#start] = undefined;
      this.#start += 1;
      this.#bytes -= oldest.bytes;
      this.#since = oldest.position;
    }
    if (this.#start > this.#maxEntries) {
      this.#events = this.#events.slice(this.#start);
      this.#start = 0;
    }
  }

  /** Forgets everything: the flow goes on after `since`. */
  reset(since: Position): void {
    this.#events = [];
    this.#start = 0;
    this.#bytes = 0;
    this.#since = since;
  }

  covers(position: Position): boolean {
    return comparePositions(this.#since, position) <= 0;
  }

  /** Is the entry at `position` one of these? */
  has(position: Position): boolean {
    const found = this.#events[this.#firstAfter(justBefore(position))];
    return found !== undefined && comparePositions(found.position, position) === 0;
  }

  /** Oldest first. Meaningful only for a covered position. */
  after(position: Position): readonly OutgoingEvent[] {
    return this.#events.slice(this.#firstAfter(position)) as OutgoingEvent[];
  }

  #firstAfter(position: Position): number {
    let low = this.#start;
    let high = this.#events.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comparePositions((this.#events[middle] as OutgoingEvent).position, position) <= 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
