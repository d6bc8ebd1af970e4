/** Answers "when has this command ended?" to those who wait here. An ENDED frame is a hint that makes it fast; about once per second what is
 *  waited for is read anyway, so a lost frame costs a second.
 *  Bounded: at most `limit` wait; a further one gets what the record says now. A tick reads at most BATCH records.
 *  Store away: waits go on until their time is over. Pure in time; one timer, while somebody waits. */

import { type CommandRecord, isEnded } from '@lapi-broker/lane';
import type { CommandId } from '@lapi-broker/protocol';

export interface WaitersParts {
  /** With the device's answer. */
  readonly read: (id: CommandId) => Promise<CommandRecord | undefined>;
  readonly readStates: (ids: readonly CommandId[]) => Promise<readonly (CommandRecord | undefined)[]>;
  readonly monotonicMs: () => number;
  readonly limit: number;
}

interface Waiter {
  readonly id: CommandId;
  readonly untilMs: number;
  readonly resolve: (record: CommandRecord | undefined) => void;
  lookAtMs: number;
}

const TICK_MS = 50;
/** The first look catches an end that was told before anybody waited for it here. */
const FIRST_LOOK_MS = 50;
const LOOK_MS = 1_000;
const BATCH = 500;
const MAX_WAIT_MS = 60_000;

export class Waiters {
  readonly name = 'command waiters';
  readonly #parts: WaitersParts;
  readonly #waiters = new Map<CommandId, Set<Waiter>>();
  readonly #listeners = new Set<(id: CommandId) => void>();
  #size = 0;
  #timer: NodeJS.Timeout | undefined;
  #looking: boolean = false;
  #leaving: boolean = false;

  constructor(parts: WaitersParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#size;
  }

  listen(listener: (id: CommandId) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves with the record once it has ended; undefined when it has not in time, is gone, or this process leaves. Rejects only when it
   *  cannot wait at all. */
  async whenEnded(id: CommandId, timeoutMs: number): Promise<CommandRecord | undefined> {
    const waits = timeoutMs > 0 && this.#size < this.#parts.limit && !this.#leaving;
    if (!waits) return ended(await this.#parts.read(id));
    return await new Promise((resolve) => {
      const nowMs = this.#parts.monotonicMs();
      this.#add({
        id,
        untilMs: nowMs + Math.min(timeoutMs, MAX_WAIT_MS),
        lookAtMs: nowMs + FIRST_LOOK_MS,
        resolve,
      });
    });
  }

  /** Somebody says that it has ended. */
  ended(id: CommandId): void {
    for (const listener of this.#listeners) listener(id);
    if (this.#waiters.has(id)) void this.#finish(id);
  }

  /** Nobody waits for this process any longer: each gets what is known now. */
  drain(): void {
    this.#leaving = true;
    for (const id of [...this.#waiters.keys()]) this.#resolve(id, undefined);
  }

  stop(): void {
    this.drain();
  }

  #add(waiter: Waiter): void {
    const same = this.#waiters.get(waiter.id);
    if (same === undefined) this.#waiters.set(waiter.id, new Set([waiter]));
    else same.add(waiter);
    this.#size += 1;
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
  }

  #remove(waiter: Waiter): void {
    const same = this.#waiters.get(waiter.id);
    if (same?.delete(waiter) !== true) return;
    if (same.size === 0) this.#waiters.delete(waiter.id);
    this.#size -= 1;
    if (this.#size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #resolve(id: CommandId, record: CommandRecord | undefined): void {
    for (const waiter of [...(this.#waiters.get(id) ?? [])]) {
      this.#remove(waiter);
      waiter.resolve(record);
    }
  }

  /** Never rejects. */
  async #finish(id: CommandId): Promise<void> {
    try {
      const record = ended(await this.#parts.read(id));
      if (record !== undefined) this.#resolve(id, record);
    } catch {
      // The store is away: the next look tries again.
    }
  }

  #tick(): void {
    const nowMs = this.#parts.monotonicMs();
    const due = new Set<CommandId>();
    for (const [id, same] of this.#waiters) {
      for (const waiter of same) {
        if (waiter.untilMs <= nowMs) {
          this.#remove(waiter);
          waiter.resolve(undefined);
        } else if (waiter.lookAtMs <= nowMs && !this.#looking && due.size < BATCH) {
          waiter.lookAtMs = nowMs + LOOK_MS;
          due.add(id);
        }
      }
    }
    if (due.size > 0) void this.#look([...due]);
  }

  /** Never rejects. */
  async #look(ids: readonly CommandId[]): Promise<void> {
    this.#looking = true;
    try {
      const records = await this.#parts.readStates(ids);
      await Promise.all(
        ids.map((id, i) => {
          const record = records[i];
          if (record === undefined) return this.#resolve(id, undefined);
          return isEnded(record.state) ? this.#finish(id) : undefined;
        }),
      );
    } catch {
      // The store is away: the next look tries again.
    } finally {
      this.#looking = false;
    }
  }
}

function ended(record: CommandRecord | undefined): CommandRecord | undefined {
  return record !== undefined && isEnded(record.state) ? record : undefined;
}
