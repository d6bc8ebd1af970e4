/** Tells event subscribers what happens to things that belong to no device: jobs and schedules, with an empty `code`. Written after the change,
 *  to the stream of one fixed shard: a hint, at least once is not promised; the thing itself is the truth. Never rejects. */

import type { EventStream } from '@lapi-broker/bus';
import type { DeviceCode, Epoch } from '@lapi-broker/protocol';

/** `data` becomes the event's data as JSON; `dedupKey` is empty where a repeat cannot happen. */
export type Announcer = (kind: string, data: unknown, dedupKey?: string) => void;

export interface AnnouncerParts {
  readonly stream: Pick<EventStream, 'append'>;
  readonly nowMs: () => number;
  readonly onFailure: (error: unknown) => void;
}

const NO_DEVICE = '' as DeviceCode;
const NO_EPOCH = 0 as Epoch;

export function createAnnouncer({ stream, nowMs, onFailure }: AnnouncerParts): Announcer {
  return (kind, data, dedupKey = '') => {
    const at = Math.floor(nowMs());
    const event = {
      code: NO_DEVICE,
      kind,
      url: '',
      at,
      receivedAt: at,
      epoch: NO_EPOCH,
      session: '',
      seq: 0,
      tags: [],
      dedupKey,
      images: '',
    } as const;
    stream.append({ ...event, data: Buffer.from(JSON.stringify(data)) }).catch(onFailure);
  };
}
