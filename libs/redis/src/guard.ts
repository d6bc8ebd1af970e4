/** Turns what the client throws into the one error that callers know. A store that cannot serve now becomes `broker_unavailable` (retryable);
 *  a command or script that Redis calls wrong becomes `internal`, because asking again cannot help. The original is the `cause`. */

import { BrokerError } from '@lapi-broker/protocol';

/** First words of replies that mean "not now", not "not like this". All other errors of the client itself mean the same. */
const NOT_NOW =
  /^(?:LOADING|READONLY|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|MOVED|ASK|OOM|MISCONF|NOREPLICAS|BUSY|UNBLOCKED|NOSCRIPT|NOAUTH|WRONGPASS|ERR Script attempted to access a non local key)\b/;

export function toBrokerError(cause: unknown): BrokerError {
  if (cause instanceof BrokerError) return cause;
  withoutArguments(cause);
  if (cause instanceof Error && cause.name === 'ReplyError' && !NOT_NOW.test(cause.message)) {
    return new BrokerError('internal', 'Redis refused a command as wrong.', { cause });
  }
  return new BrokerError('broker_unavailable', 'Redis did not serve a command.', { cause });
}

/** The client hangs the whole command on its errors: nonces, secrets and events, which must not reach a log with them (S5). */
function withoutArguments(error: unknown): void {
  if (error instanceof Error && 'command' in error) delete error.command;
}

/** Did the server certainly not do what the command asked? True for refusals, and for commands that did not leave this process. False for
 *  time-outs and lost connections, after which it may have been done. Scripts that wrote before they failed do not count: ours check first. */
export function notDone(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return error.name === 'ReplyError' || error.message.startsWith("Stream isn't writeable");
}

/** Does the error say that another server answers for the key, so that the map of slots should be read again? */
export function hasMoved(error: unknown): boolean {
  return error instanceof Error && /^(?:MOVED|ASK|CLUSTERDOWN|READONLY)\b/.test(error.message);
}

/** Same value, translated error. */
export async function guarded<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw toBrokerError(error);
  }
}
