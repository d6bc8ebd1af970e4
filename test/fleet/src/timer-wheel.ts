/** One timer for thousands of devices: a hashed wheel of doubly linked lists, so that setting and cancelling cost O(1).
 *  A timer fires at its time or up to one tick later, never earlier; timers of one tick fire in no promised order.
 *  The interval behind it runs only while timers are set, so an idle wheel keeps no process alive.
 *  Not for exact timing: the tick is 10 ms. A callback that throws is a bug of its owner and takes the process down. */

const SLOTS = 1024;

/** Opaque; hand it back to `cancel`. */
export interface Timer {
  dueTick: number;
  run: (() => void) | undefined;
  previous: Timer;
  next: Timer;
}

function emptySlot(): Timer {
  const head = { dueTick: 0, run: undefined } as Timer;
  head.previous = head;
  head.next = head;
  return head;
}

function unlink(timer: Timer): void {
  timer.previous.next = timer.next;
  timer.next.previous = timer.previous;
  timer.previous = timer;
  timer.next = timer;
}

export class TimerWheel {
  readonly #slots = new Map<number, Timer>();
  readonly #tickMs: number;
  readonly #monotonicMs: () => number;
  #tick: number;
  #size = 0;
  #interval: NodeJS.Timeout | undefined;

  constructor(options: { readonly tickMs?: number; readonly monotonicMs?: () => number } = {}) {
    this.#tickMs = options.tickMs ?? 10;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#tick = this.#tickNow();
  }

  /** Timers that have not fired yet. */
  get size(): number {
    return this.#size;
  }

  after(delayMs: number, run: () => void): Timer {
    if (this.#size === 0) this.#tick = this.#tickNow();
    const dueTick = Math.max(this.#tick + 1, Math.ceil((this.#monotonicMs() + Math.max(0, delayMs)) / this.#tickMs));
    const head = this.#slot(dueTick % SLOTS);
    const timer: Timer = { dueTick, run, previous: head.previous, next: head };
    head.previous.next = timer;
    head.previous = timer;
    this.#size += 1;
    this.#interval ??= setInterval(() => this.advance(), this.#tickMs);
    return timer;
  }

  /** Fired, cancelled and undefined timers are ignored. */
  cancel(timer: Timer | undefined): void {
    if (timer?.run === undefined) return;
    timer.run = undefined;
    unlink(timer);
    this.#forgetOne();
  }

  /** Fires what is due. The interval calls it; tests with their own clock do so too. */
  advance(): void {
    const last = this.#tickNow();
    // After a long stall every slot is visited once; a slot visit fires all that is overdue in it.
    const first = Math.max(this.#tick + 1, last - SLOTS + 1);
    this.#tick = Math.max(this.#tick, last);
    for (let tick = first; tick <= last; tick += 1) this.#fireSlot(tick % SLOTS, last);
  }

  /** Cancels everything. The wheel can be used again afterwards. */
  stop(): void {
    for (const head of this.#slots.values()) {
      for (let timer = head.next; timer !== head; timer = timer.next) timer.run = undefined;
    }
    this.#slots.clear();
    this.#size = 0;
    this.#pause();
  }

  #fireSlot(slot: number, lastTick: number): void {
    const head = this.#slots.get(slot);
    if (head === undefined) return;
    const due: Timer[] = [];
    for (let timer = head.next; timer !== head; timer = timer.next) {
      if (timer.dueTick <= lastTick) due.push(timer);
    }
    for (const timer of due) {
      const run = timer.run;
      // A callback before this one may have cancelled it.
      if (run === undefined) continue;
      timer.run = undefined;
      unlink(timer);
      this.#forgetOne();
      run();
    }
  }

  #slot(index: number): Timer {
    let head = this.#slots.get(index);
    if (head === undefined) {
      head = emptySlot();
      this.#slots.set(index, head);
    }
    return head;
  }

  #forgetOne(): void {
    this.#size = Math.max(0, this.#size - 1);
    if (this.#size === 0) this.#pause();
  }

  #pause(): void {
    clearInterval(this.#interval);
    this.#interval = undefined;
  }

  #tickNow(): number {
    return Math.floor(this.#monotonicMs() / this.#tickMs);
  }
}
