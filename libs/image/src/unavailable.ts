import { BrokerError } from '@lapi-broker/protocol';

/** The one error that users of a store know. */
export function unavailable(cause: unknown): BrokerError {
  if (cause instanceof BrokerError) return cause;
  return new BrokerError('broker_unavailable', 'The image store did not serve a request.', { cause });
}
