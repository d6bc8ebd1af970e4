/** Sends what must be fast but may be lost: "look at this lane" to the owner, "it ended" to who waits, "look again then" to the timers.
 *  None of it is the truth: an edge looks again after every gap, waiters read the record, the sweeper finds every lane that is due.
 *  Never rejects, never throws. */

import type { PubSub } from '@lapi-broker/bus';
import type { EndedCommand, LaneName, LaneOwner } from '@lapi-broker/lane';
import {
  type CommandId,
  type DeviceCode,
  encodeControlFrame,
  encodeEndedFrame,
  type InstanceId,
} from '@lapi-broker/protocol';
import type { Keyspace } from '@lapi-broker/redis';

/** Asks that a lane is tended at a time (Redis time). */
export interface LaneTimers {
  ask(code: DeviceCode, atMs: number): void;
}

export interface LaneHintsParts {
  readonly instance: InstanceId;
  readonly keyspace: Pick<Keyspace, 'inbox' | 'reply'>;
  readonly pubsub: Pick<PubSub, 'publish'>;
  readonly timers: LaneTimers;
  /** An end that this process itself waits for. */
  readonly onEnded: (id: CommandId) => void;
}

/** What the methods of the intake answer. */
interface Outcome {
  readonly owner?: LaneOwner | undefined;
  readonly timerAtMs?: number | undefined;
  readonly ended: readonly EndedCommand[];
}

export class LaneHints {
  readonly #parts: LaneHintsParts;

  constructor(parts: LaneHintsParts) {
    this.#parts = parts;
  }

  /** `wake`: could a command start now? In `lane`, or in any. */
  send(code: DeviceCode, { owner, timerAtMs, ended }: Outcome, wake: boolean, lane?: LaneName): void {
    const { keyspace, pubsub, timers } = this.#parts;
    if (owner !== undefined && wake) {
      const hint = encodeControlFrame({ type: 'lane_ready', code, ...(lane === undefined ? {} : { lane }) });
      void pubsub.publish(keyspace.inbox(owner.node), hint);
    }
    if (timerAtMs !== undefined) timers.ask(code, timerAtMs);
    this.tell(ended);
  }

  tell(ended: readonly EndedCommand[]): void {
    const { instance, keyspace, pubsub, onEnded } = this.#parts;
    for (const { id, replyTo } of ended) {
      if (replyTo === instance) onEnded(id);
      else if (replyTo !== undefined) void pubsub.publish(keyspace.reply(replyTo), encodeEndedFrame(id));
    }
  }
}
