/** Looks after all groups: finishes removals that were left half done, and reads how far each group is, for metrics. One process at a time does
 *  it, under a lock; the others know nothing. Store away: keeps what was last seen, and tries again. */

import { BrokerError } from '@lapi-broker/protocol';
import type { Part } from '@lapi-broker/runtime';
import type { Group, GroupProgress } from './group.ts';

export interface GroupWatchParts {
  readonly tend: () => Promise<readonly Group[]>;
  readonly progress: (name: string) => Promise<GroupProgress>;
  /** Is it this process's turn? Never rejects. */
  readonly holdsTurn: () => Promise<boolean>;
  readonly onFailure: (error: unknown) => void;
  readonly intervalMs: number;
}

export interface SeenGroup {
  readonly group: Group;
  readonly progress: GroupProgress;
}

export class GroupWatch implements Part {
  readonly name = 'group watch';
  readonly #parts: GroupWatchParts;
  #seen: readonly SeenGroup[] = [];
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;

  constructor(parts: GroupWatchParts) {
    this.#parts = parts;
  }

  /** As of the last look; nothing when another process has the turn. */
  get seen(): readonly SeenGroup[] {
    return this.#seen;
  }

  async start(): Promise<void> {
    this.#timer ??= setInterval(() => {
      this.#looking ??= this.#look().finally(() => {
        this.#looking = undefined;
      });
    }, this.#parts.intervalMs);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    await this.#looking;
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const { tend, progress, holdsTurn, onFailure } = this.#parts;
    try {
      const seen: SeenGroup[] = [];
      // One after the other: it must not be felt.
      for (const group of (await holdsTurn()) ? await tend() : []) {
        try {
          seen.push({ group, progress: await progress(group.name) });
        } catch (error) {
          // Removed meanwhile, which must not hide the others.
          if (!(error instanceof BrokerError) || error.code !== 'not_found') throw error;
        }
      }
      this.#seen = seen;
    } catch (error) {
      onFailure(error);
    }
  }
}
