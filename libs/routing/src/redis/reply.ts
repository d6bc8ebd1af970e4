/** Reads what a script answered: one word, or a list of words. Scripts answer enums, so everything else is a broken contract. */

import { BrokerError } from '@lapi-broker/protocol';

export function words(reply: unknown): readonly string[] {
  return Array.isArray(reply) ? reply.map(String) : [String(reply)];
}

export function unexpectedReply(script: string, reply: readonly string[]): BrokerError {
  return new BrokerError('internal', `script ${script} answered ${reply[0] ?? 'nothing'}, which is no word of it`);
}
