/** Answers "how much of its memory has the store used?": asks each master every so often; costs O(masters), whatever the number of devices. What
 *  follows is the callers' to decide: new work is refused first, so that what was accepted, leases and ends of commands still find room (D12).
 *  No `maxmemory` set: 0. A master that does not answer: what it last said holds; its commands fail by themselves. */

import { isCluster, type RedisConnection } from './connection.ts';
import { guarded } from './guard.ts';

export class StoreMemory {
  readonly name = 'store memory';
  readonly #connection: RedisConnection;
  readonly #intervalMs: number;
  readonly #onLook: (usedPercent: number) => void;
  #usedPercent = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped: boolean = false;

  /** `onLook`: after each look, also one that failed. */
  constructor(
    connection: RedisConnection,
    intervalMs: number,
    onLook: (usedPercent: number) => void = () => undefined,
  ) {
    this.#connection = connection;
    this.#intervalMs = intervalMs;
    this.#onLook = onLook;
  }

  /** Of the fullest master; 0 without a limit. */
  get usedPercent(): number {
    return this.#usedPercent;
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
      const masters = isCluster(this.#connection) ? this.#connection.nodes('master') : [this.#connection];
      const reports = await Promise.all(masters.map((master) => guarded(master.info('memory'))));
      this.#usedPercent = Math.max(0, ...reports.map(usedPercentOf));
    } catch {
      // Away: the last answer holds.
    }
    this.#onLook(this.#usedPercent);
    if (!this.#stopped) this.#timer = setTimeout(() => void this.#look(), this.#intervalMs);
  }
}

/** From the text of INFO memory. */
export function usedPercentOf(report: string): number {
  const number = (name: string): number => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(report)?.[1] ?? 0);
  const limitBytes = number('maxmemory');
  return limitBytes === 0 ? 0 : (100 * number('used_memory')) / limitBytes;
}
