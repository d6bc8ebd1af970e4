/** Answers "has the store room for more?": asks each master for its memory every two seconds. From LIMITS.pressurePercent of `maxmemory` on
 *  no command is queued any more, so that what was accepted, leases and ends of commands still find room (reliability: refuse new work first).
 *  No `maxmemory` set: never full. A master that does not answer: what it last said holds; its commands fail by themselves.
 *  Not done here: trimming, or choosing what else to refuse. */

import { guarded, isCluster, type RedisConnection } from '@lapi-broker/redis';

export interface StorePressureOptions {
  readonly intervalMs: number;
  readonly percent: number;
  readonly onChange: (full: boolean, usedPercent: number) => void;
}

export class StorePressure {
  readonly name = 'store pressure';
  readonly #connection: RedisConnection;
  readonly #options: StorePressureOptions;
  #usedPercent = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped: boolean = false;

  constructor(connection: RedisConnection, options: StorePressureOptions) {
    this.#connection = connection;
    this.#options = options;
  }

  /** Of the fullest master; 0 without a limit. */
  get usedPercent(): number {
    return this.#usedPercent;
  }

  get full(): boolean {
    return this.#usedPercent >= this.#options.percent;
  }

  async start(): Promise<void> {
    await this.#look();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    const wasFull = this.full;
    try {
      const masters = isCluster(this.#connection) ? this.#connection.nodes('master') : [this.#connection];
      const reports = await Promise.all(masters.map((master) => guarded(master.info('memory'))));
      this.#usedPercent = Math.max(0, ...reports.map(usedPercentOf));
    } catch {
      // Away: the last answer holds.
    }
    if (this.full !== wasFull) this.#options.onChange(this.full, this.#usedPercent);
    if (!this.#stopped) this.#timer = setTimeout(() => void this.#look(), this.#options.intervalMs);
  }
}

/** From the text of INFO memory. */
export function usedPercentOf(report: string): number {
  const number = (name: string): number => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(report)?.[1] ?? 0);
  const limitBytes = number('maxmemory');
  return limitBytes === 0 ? 0 : (100 * number('used_memory')) / limitBytes;
}
