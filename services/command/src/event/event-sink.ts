/** What the feed needs of the connection of a subscriber, whatever its protocol. Calls never throw and never wait: a sink that cannot send
 *  keeps bytes, and says how many; the feed stops giving before that is too much. */

import type { OutgoingEvent } from './outgoing-event.ts';
import { countBetween, eventId, type Position } from './position.ts';

export interface Gap {
  readonly shard: number;
  /** Events after `from` and before `to`. Both have the form of event ids, and need not be of an event that is still there. */
  readonly from: string;
  readonly to: string;
  /** How many there were, of all devices of the shard; null when the reader began at a time of day that retention has passed. */
  readonly count: number | null;
  /** trimmed: the store no longer keeps them. rewound: the store lost its last writes; it is read again from `from` on, and what does not come
   *  again is gone. */
  readonly reason: 'trimmed' | 'rewound';
}

export function gapBetween(shard: number, from: Position, to: Position, reason: Gap['reason']): Gap {
  return { shard, from: eventId(shard, from), to: eventId(shard, to), count: countBetween(from, to), reason };
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
