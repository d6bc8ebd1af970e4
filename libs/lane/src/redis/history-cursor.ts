/** A place in the history of a device, as a text for platforms: `<ms of acceptance>-<command id>`. */

import { BrokerError, type CommandId, isCommandId } from '@lapi-broker/protocol';

export interface HistoryPlace {
  readonly acceptedAtMs: number;
  readonly id: CommandId;
}

export function encodeCursor({ acceptedAtMs, id }: HistoryPlace): string {
  return `${acceptedAtMs}-${id}`;
}

/** Throws `invalid_request` for what is no cursor. */
export function decodeCursor(cursor: string): HistoryPlace {
  const [, ms, id = ''] = /^(\d{1,15})-([0-9a-z]{22})$/.exec(cursor) ?? [];
  if (ms === undefined || !isCommandId(id))
    throw new BrokerError('invalid_request', 'query.cursor: not a cursor of this list');
  return { acceptedAtMs: Number(ms), id };
}
