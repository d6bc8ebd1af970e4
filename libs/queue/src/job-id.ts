/** Makes any id a legal id of a BullMQ job. BullMQ forbids `:` and whole numbers, of which DeviceCodes (`0123`, `aa:bb:cc:dd:ee:ff`) are
 *  made, and keeps a job in the key `<queue>:<job id>`, beside its own keys `meta`, `wait`, `id` and others, which an id must not hit. */

import { BrokerError } from '@lapi-broker/protocol';

const MAX_ID_CHARS = 512;

/** Different ids give different job ids. Throws `internal` for an id that is empty or longer than 512 characters. */
export function jobIdOf(id: string): string {
  if (id === '' || id.length > MAX_ID_CHARS) {
    throw new BrokerError('internal', `An id of queued work has 1–${MAX_ID_CHARS} characters.`);
  }
  return `=${id.replaceAll('%', '%25').replaceAll(':', '%3A')}`;
}
