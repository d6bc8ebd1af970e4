/** What a webhook sends. */

import { expect, test } from 'vitest';
import { OutgoingEvent } from '../event/outgoing-event.ts';
import type { Delivery } from '../group/group.ts';
import { WEBHOOK_MESSAGES } from '../http/message-schema.ts';
import { record } from '../testing/event-record.ts';
import { writeEvents, writeTest } from './message.ts';

const ID = '0mk5x3v9qx2m4q8w1z5t';
const gap: Delivery = {
  ackId: 'g',
  attempt: 1,
  message: { type: 'gap', gap: { shard: 7, from: '07-1-1', to: '07-2-9', count: 7 } },
};
const event = (n: number, data = '{}', attempt = 1): Delivery => ({
  ackId: String(n),
  attempt,
  message: { type: 'event', event: new OutgoingEvent(7, { ms: 1_000, seq: n }, record({ data: Buffer.from(data) })) },
});

test('every digit of the device reaches the receiver', () => {
  const { body, eventIds } = writeEvents(ID, [event(1, '{"n":9007199254740993,"d":1.10}'), event(2)], 0);
  expect(body.toString()).toContain('{"n":9007199254740993,"d":1.10}');
  expect(eventIds).toEqual(['07-1000-1', '07-1000-2']);
});

test('messages are what the documents say, with gaps beside events', () => {
  for (const deliveries of [[event(1), gap, event(2)], [gap], [event(1)]]) {
    const body: unknown = JSON.parse(writeEvents(ID, deliveries, 1_000).body.toString());
    const { data, type, timestamp } = WEBHOOK_MESSAGES.events.parse(body);
    expect({ type, timestamp }).toEqual({ type: 'events', timestamp: '1970-01-01T00:00:01.000Z' });
    expect(data.webhook).toBe(ID);
    expect(data.events.length + data.gaps.length).toBe(deliveries.length);
  }
  WEBHOOK_MESSAGES['webhook.test'].parse(JSON.parse(writeTest(ID, 'a', 0).body.toString()));
});

test('another attempt of the same events is the same message; other events, or another webhook, are another', () => {
  const id = (webhook: string, deliveries: readonly Delivery[], nowMs = 0): string =>
    writeEvents(webhook, deliveries, nowMs).id;
  const first = id(ID, [event(1), event(2), gap]);
  expect(id(ID, [event(1, '{}', 2), event(2, '{}', 2), { ...gap, attempt: 2 }], 99_000)).toBe(first);
  expect(id(ID, [event(1), event(2)])).not.toBe(first);
  expect(id(ID, [event(1), event(3), gap])).not.toBe(first);
  expect(id(ID.replace('0', '1'), [event(1), event(2), gap])).not.toBe(first);
  expect(writeTest(ID, 'a', 0).id).not.toBe(writeTest(ID, 'b', 0).id);
});
