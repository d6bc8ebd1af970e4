/** Answers "did this process write this attempt before?", for a store that fell back behind its own point of no return and hands out again what
 *  was written already (I7). By command the highest attempt that was written.
 *  Bound: MAX_REMEMBERED_ATTEMPTS commands; the ones written longest ago are forgotten first. */

import type { CommandId } from '@lapi-broker/protocol';
import { MAX_REMEMBERED_ATTEMPTS } from '../limits.ts';

export class AttemptMemory {
  private readonly attempts = new Map<CommandId, number>();

  wrote(id: CommandId, attempt: number): void {
    // Inserted again, so that the map's order is the order of writing.
    this.attempts.delete(id);
    if (this.attempts.size >= MAX_REMEMBERED_ATTEMPTS) {
      const oldest = this.attempts.keys().next();
      if (!oldest.done) this.attempts.delete(oldest.value);
    }
    this.attempts.set(id, attempt);
  }

  /** This attempt or a later one. */
  has(id: CommandId, attempt: number): boolean {
    return (this.attempts.get(id) ?? 0) >= attempt;
  }
}
