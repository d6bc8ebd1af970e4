/** How many commands wait for all devices together: counted in the store about once per second, and in between raised by what this process lets
 *  in. So one process keeps the limit exactly, several pass it by what they accept in a second.
 *  Store away: the last count holds. */

import type { WaitingCount } from './queued-commands.ts';

export class StoreWaitingCount implements WaitingCount {
  readonly name = 'waiting commands';
  readonly #count: () => Promise<number>;
  readonly #intervalMs: number;
  #value = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped: boolean = false;

  constructor(count: () => Promise<number>, intervalMs: number) {
    this.#count = count;
    this.#intervalMs = intervalMs;
  }

  get value(): number {
    return this.#value;
  }

  add(): void {
    this.#value += 1;
  }

  async start(): Promise<void> {
    await this.#look();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    try {
      this.#value = await this.#count();
    } catch {
      // The store is away, so nothing is accepted either.
    }
    if (!this.#stopped) this.#timer = setTimeout(() => void this.#look(), this.#intervalMs);
  }
}
