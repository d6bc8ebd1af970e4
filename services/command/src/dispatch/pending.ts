/** The commands in progress, by correlation id, bounded, with one shared sweep instead of a timer per command.
 *  The sweep walks the whole map: at the bound of 20,000 that is some 0.2 ms ten times a second, and it needs no bookkeeping when a
 *  command ends, which is what happens 40,000 times a second. A command is due at most `sweepMs` late.
 *  Pure: the caller brings the clock and calls `sweep`. */

export interface Waiting {
  /** Monotonic ms at which `due` has to be called. */
  dueAtMs: number;
}

export class Pending<W extends Waiting> {
  readonly #limit: number;
  readonly #waiting = new Map<number, W>();
  #lastId = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#waiting.size;
  }

  get full(): boolean {
    return this.#waiting.size >= this.#limit;
  }

  /** Unique within this process; below 2^53 for 7,000 years at 40,000 per second. */
  nextId(): number {
    this.#lastId += 1;
    return this.#lastId;
  }

  add(id: number, waiting: W): void {
    if (this.full) throw new RangeError('more commands than the bound: ask `full` before');
    this.#waiting.set(id, waiting);
  }

  get(id: number): W | undefined {
    return this.#waiting.get(id);
  }

  delete(id: number): boolean {
    return this.#waiting.delete(id);
  }

  /** Calls `due` for each whose time has come. `due` may delete it, or move its time. */
  sweep(nowMs: number, due: (waiting: W) => void): void {
    for (const waiting of this.#waiting.values()) {
      if (waiting.dueAtMs <= nowMs) due(waiting);
    }
  }

  /** A copy, so that the caller may delete while it walks. */
  all(): readonly W[] {
    return [...this.#waiting.values()];
  }
}
