/** The two clocks of a process, as a parameter, so that decisions can be tested without waiting.
 *  `nowMs` is for people and other machines and may jump; `monotonicMs` is for spans and deadlines and never goes back.
 *  Neither is the clock of ownership: epochs and `notAfter` use the store's time. */

export interface Clock {
  /** Milliseconds since 1970 UTC. May jump when the host's clock is set. */
  nowMs(): number;
  /** Milliseconds since an arbitrary start, with fractions. Stands still while the host is suspended. */
  monotonicMs(): number;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};
