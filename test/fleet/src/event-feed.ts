/** Decides when a device has something to say: one timer per kind of event, at its rate with jitter, first event anywhere within the
 *  first interval so that a fleet does not speak in chorus. Stopped feeds hold no timer. What is said is made in event.ts. */

import { EVENT_KINDS, type EventKind, type EventRates } from './event.ts';
import { jittered, type Random } from './random.ts';
import type { Timer, TimerWheel } from './timer-wheel.ts';

const MINUTE_MS = 60_000;
const JITTER = 0.5;

export class EventFeed {
  readonly #timers: TimerWheel;
  readonly #random: Random;
  readonly #rates: EventRates;
  readonly #speak: (kind: EventKind) => void;
  #running: (Timer | undefined)[] = [];

  constructor(timers: TimerWheel, random: Random, rates: EventRates, speak: (kind: EventKind) => void) {
    this.#timers = timers;
    this.#random = random;
    this.#rates = rates;
    this.#speak = speak;
  }

  start(): void {
    this.stop();
    EVENT_KINDS.forEach((kind, index) => {
      const perMinute = this.#rates[kind] ?? 0;
      if (perMinute <= 0) return;
      const intervalMs = MINUTE_MS / perMinute;
      const next = (delayMs: number) => {
        this.#running[index] = this.#timers.after(delayMs, () => {
          next(jittered(intervalMs, JITTER, this.#random));
          this.#speak(kind);
        });
      };
      next(intervalMs * this.#random());
    });
  }

  stop(): void {
    for (const timer of this.#running) this.#timers.cancel(timer);
    this.#running = [];
  }
}
