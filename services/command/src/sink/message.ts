/** What a message broker gets of one hand-out of a group, and what is done with the hand-out after the broker's answer. Pure.
 *
 *  Three messages: an event, as the API shows it; a gap, where retention took events before the sink got them; and, in place of an event that
 *  the broker does not take because of its size, the note that it was left out. So whatever is missing is announced. */

import type { SinkMessage, SinkResult } from '@lapi-broker/sink';
import { eventId } from '../event/position.ts';
import type { Delivery } from '../group/group.ts';

export function toSinkMessage({ message }: Delivery): SinkMessage {
  if (message.type === 'event') {
    const { shard, position, record } = message.event;
    const { code, kind } = record;
    return { id: eventId(shard, position), type: 'event', code, kind, json: message.event.json() };
  }
  const { shard, from, to, count } = message.gap;
  return {
    id: `gap:${from}:${to}`,
    type: 'gap',
    code: '',
    kind: 'gap',
    json: Buffer.from(JSON.stringify({ gap: { shard, from, to, count } })),
  };
}

export function leftOut({ id, code, kind, json }: SinkMessage): SinkMessage {
  const omitted = { id, code, kind, bytes: json.length, reason: 'too_large' };
  return { id, type: 'omitted', code, kind: 'omitted', json: Buffer.from(JSON.stringify({ omitted })) };
}

export interface Settlement {
  readonly ack: readonly string[];
  readonly release: readonly string[];
  /** By attempt, which decides for how long. */
  readonly nack: ReadonlyMap<number, readonly string[]>;
  /** Why the connection should not be used any more. */
  readonly ended: string | undefined;
}

/** What a broker took nothing of goes back as if never handed out, so that its absence, however long, wears out no attempts. But where it took
 *  others at the same time, it is the message that it does not like, and that one waits longer and longer while the others go on.
 *  `leaving`: this process ends; what is not confirmed is somebody else's at once. */
export function planSettlement(
  deliveries: readonly Pick<Delivery, 'ackId' | 'attempt'>[],
  results: readonly SinkResult[],
  leaving: boolean,
): Settlement {
  const takesOthers = results.some(({ status }) => status === 'confirmed');
  const ack: string[] = [];
  const release: string[] = [];
  const nack = new Map<number, string[]>();
  let ended: string | undefined;
  for (const [i, { ackId, attempt }] of deliveries.entries()) {
    const result = results[i];
    if (result?.status === 'confirmed') {
      ack.push(ackId);
      continue;
    }
    const ofItsOwn = takesOthers || result?.status === 'refused' || result?.status === 'too_large';
    if (result?.status === 'unconfirmed' || !ofItsOwn) ended ??= result?.reason;
    if (leaving || !ofItsOwn) release.push(ackId);
    else nack.set(attempt, [...(nack.get(attempt) ?? []), ackId]);
  }
  return { ack, release, nack, ended };
}

/** 1 s, 2 s, 4 s … up to `mostMs`, the last half of it at random. */
export function backoffMs(failures: number, firstMs: number, mostMs: number, random: () => number): number {
  const fullMs = Math.min(mostMs, firstMs * 2 ** Math.min(failures, 30));
  return Math.round(fullMs * (0.5 + random() / 2));
}
