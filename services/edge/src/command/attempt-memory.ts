/** Answers "does the store know of everything that this process wrote?", for a store that fell back behind its own point of no return and hands out
 *  again what was written already (I7): under the same number of the attempt, or under a later one, when attempts that were given back came
 *  between. By command the highest attempt that was written, and how many were.
 *  Bound: MAX_REMEMBERED_ATTEMPTS commands; the ones written longest ago are forgotten first. */

import type { CommandId } from '@lapi-broker/protocol';
import { MAX_REMEMBERED_ATTEMPTS } from '../limits.ts';

interface Written {
  readonly attempt: number;
  readonly writes: number;
}

export class AttemptMemory {
  private readonly commands = new Map<CommandId, Written>();

  wrote(id: CommandId, attempt: number): void {
    const known = this.commands.get(id);
    // Inserted again, so that the map's order is the order of writing.
    this.commands.delete(id);
    if (this.commands.size >= MAX_REMEMBERED_ATTEMPTS) {
      const oldest = this.commands.keys().next();
      if (!oldest.done) this.commands.delete(oldest.value);
    }
    this.commands.set(id, { attempt, writes: (known?.writes ?? 0) + 1 });
  }

  /** Was this attempt written, or a later one, or as many as the store counts together with this one? */
  has(id: CommandId, attempt: number, writes: number): boolean {
    const known = this.commands.get(id);
    return known !== undefined && (known.attempt >= attempt || known.writes >= writes);
  }
}
