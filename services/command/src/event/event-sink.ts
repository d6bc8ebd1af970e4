/** What the feed needs of the connection of a subscriber, whatever its protocol. Calls never throw and never wait: a sink that cannot send
 *  keeps bytes, and says how many; the feed stops giving before that is too much. */

import type { OutgoingEvent } from './outgoing-event.ts';

export interface Gap {
  readonly shard: number;
  /** In the form of event ids, though `from` may be a place between two: events after `from` and before `to` may be missing. `to` is the oldest that is still there or, when none is, the
   *  youngest that was. */
  readonly from: string;
  readonly to: string;
  /** Events that are missing, of all devices of the shard; null when nobody can know. */
  readonly count: number | null;
  /** trimmed: the store no longer keeps them. rewound: the store lost its last writes; some events may come again, some are gone. */
  readonly reason: 'trimmed' | 'rewound';
}

export type CloseReason = 'slow_consumer' | 'draining';

export interface EventSink {
  /** `cursor` says: everything up to and including this event has been passed on. */
  event(event: OutgoingEvent, cursor: string): void;
  gap(gap: Gap, cursor: string): void;
  heartbeat(cursor: string, storeAway: boolean): void;
  /** Sends what was given since the last flush, in as few writes as possible. */
  flush(): void;
  /** Given and not yet taken by the kernel. */
  waitingBytes(): number;
  waitingMessages(): number;
  /** Nothing more will come. The peer is told, then disconnected. */
  closed(reason: CloseReason, cursor: string): void;
}
