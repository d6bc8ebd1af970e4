/** One signal out of several, for as long as some work takes. AbortSignal.any would leave something behind at signals that live as long as the
 *  process, at every call. */

/** `work` gets a signal that aborts with the first of `signals`; nothing of it stays at them afterwards. */
export async function underSignals<T>(
  signals: readonly AbortSignal[],
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const either = new AbortController();
  const abort = (): void => either.abort();
  for (const signal of signals) {
    signal.addEventListener('abort', abort);
    if (signal.aborted) abort();
  }
  try {
    return await work(either.signal);
  } finally {
    for (const signal of signals) signal.removeEventListener('abort', abort);
  }
}
