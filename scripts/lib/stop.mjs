/** Errors that a person can act on, and the wish to stop. Scripts print these without a stack; anything else is a mistake of ours. */

/** Something outside the scripts must change before they can go on; the message says what. */
export class Obstacle extends Error {
  /** @param {string} message
   *  @param {{ cause?: unknown }} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = 'Obstacle';
  }
}

/** Thrown by what was interrupted by Ctrl-C or SIGTERM. */
export class Stopped extends Error {
  constructor() {
    super('stopped');
    this.name = 'Stopped';
  }
}

/** @param {AbortSignal} signal */
export function throwIfStopped(signal) {
  if (signal.aborted) throw new Stopped();
}

/** Settles like the promise, but rejects with Stopped as soon as the signal fires. The promise itself is not ended by that.
 *  @template T
 *  @param {Promise<T>} promise
 *  @param {AbortSignal} signal
 *  @returns {Promise<T>} */
export async function unlessStopped(promise, signal) {
  throwIfStopped(signal);
  /** @type {() => void} */
  let forget = () => {};
  const stopped = new Promise((_, reject) => {
    const onAbort = () => reject(new Stopped());
    signal.addEventListener('abort', onAbort, { once: true });
    forget = () => signal.removeEventListener('abort', onAbort);
  });
  try {
    return await Promise.race([promise, /** @type {Promise<never>} */ (stopped)]);
  } finally {
    forget();
  }
}

/** First SIGINT, SIGTERM or SIGHUP: the returned signal fires. Second one: `kill`, then exit.
 *  @param {{ onFirst: () => void, kill: () => void }} actions
 *  @returns {AbortSignal} */
export function stopOnSignals({ onFirst, kill }) {
  const controller = new AbortController();
  for (const name of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(name, () => {
      if (controller.signal.aborted) {
        kill();
        process.exit(130);
      }
      onFirst();
      controller.abort();
    });
  }
  return controller.signal;
}
