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

const PARENT_CHECK_MS = 500;

/** npm runs scripts through a shell that passes no signals on: SIGTERM to npm ends the shell and leaves us alone. So under npm the end of our
 *  parent means that we should stop. Called at most once, and never where npm is not involved.
 *  @param {() => void} callback */
export function onOrphaned(callback) {
  if (process.env.npm_lifecycle_event === undefined || process.platform === 'win32') return;
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    callback();
  }, PARENT_CHECK_MS);
  timer.unref();
}

/** First SIGINT, SIGTERM or SIGHUP, or the end of npm: the returned signal fires. Second signal: `kill`, then exit.
 *  Output that nobody reads any more is no error.
 *  @param {{ onFirst: () => void, kill: () => void }} actions
 *  @returns {AbortSignal} */
export function stopOnSignals({ onFirst, kill }) {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) return;
    onFirst();
    controller.abort();
  };
  for (const name of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(name, () => {
      if (controller.signal.aborted) {
        kill();
        process.exit(130);
      }
      stop();
    });
  }
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  onOrphaned(stop);
  return controller.signal;
}
