/** Answers "which sessions need a look now?" for all timers of all sessions: one timer of the process instead of several per socket.
 *  A session sits in one bucket, for the earliest thing that may be due. Buckets are coarse and reach less than a minute ahead: a session
 *  that is looked at too early answers with its next due time and is put back, which costs an idle session one look per round.
 *  Bound: one entry per session. Not a calendar: nothing may depend on being called earlier than one tick late. */

export interface Timed {
  /** Bucket index of this entry, or -1. Owned by the wheel. */
  wheelSlot: number;
  /** Monotonic ms of the earliest look that was asked for. Owned by the wheel. */
  dueMs: number;
}

const SLOTS = 1_024;

export class Wheel<Entry extends Timed> {
  readonly tickMs: number;
  private readonly slots: Set<Entry>[] = Array.from({ length: SLOTS }, () => new Set<Entry>());
  private tick: number;

  constructor(tickMs: number, nowMs: number) {
    this.tickMs = tickMs;
    this.tick = Math.floor(nowMs / tickMs);
  }

  /** Asks for a look at `dueMs` or soon after; keeps an earlier one that was asked for already. */
  lookAt(entry: Entry, dueMs: number): void {
    if (entry.wheelSlot >= 0) {
      if (entry.dueMs <= dueMs) return;
      this.slots[entry.wheelSlot]?.delete(entry);
    }
    const ahead = Math.min(Math.max(Math.ceil(dueMs / this.tickMs) - this.tick, 1), SLOTS - 1);
    entry.dueMs = dueMs;
    entry.wheelSlot = (this.tick + ahead) % SLOTS;
    this.slots[entry.wheelSlot]?.add(entry);
  }

  remove(entry: Entry): void {
    if (entry.wheelSlot >= 0) this.slots[entry.wheelSlot]?.delete(entry);
    entry.wheelSlot = -1;
  }

  /** Calls `look` for every entry whose bucket has come; `look` answers the next due time, or Infinity to be left out. */
  advance(nowMs: number, look: (entry: Entry, nowMs: number) => number): void {
    const target = Math.floor(nowMs / this.tickMs);
    // After a pause longer than a round every bucket has come once; more rounds would find nothing.
    if (target - this.tick > SLOTS) this.tick = target - SLOTS;
    while (this.tick < target) {
      this.tick++;
      const slot = this.slots[this.tick % SLOTS];
      if (slot === undefined || slot.size === 0) continue;
      const entries = [...slot];
      slot.clear();
      for (const entry of entries) {
        entry.wheelSlot = -1;
        const dueMs = entry.dueMs > nowMs ? entry.dueMs : look(entry, nowMs);
        if (dueMs !== Number.POSITIVE_INFINITY) this.lookAt(entry, dueMs);
      }
    }
  }
}
