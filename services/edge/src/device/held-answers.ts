/** Answers to registrations that are held back: failing ones (protocol F13) and those of a node under load. Bound: `capacity` at once;
 *  beyond it an answer goes out right away, so that a flood cannot hold memory. `stop` drops what is held: the listener closes its connections. */

export class HeldAnswers {
  private readonly capacity: number;
  private readonly timers = new Set<NodeJS.Timeout>();

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  /** Calls `give` now or after `delayMs`. True if it is held. */
  hold(delayMs: number, give: () => void): boolean {
    if (delayMs <= 0 || this.timers.size >= this.capacity) {
      give();
      return false;
    }
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      give();
    }, delayMs);
    this.timers.add(timer);
    return true;
  }

  stop(): void {
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
  }
}
