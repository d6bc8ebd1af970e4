import type { SinkResult } from '@lapi-broker/sink';
import { describe, expect, test } from 'vitest';
import { OutgoingEvent } from '../event/outgoing-event.ts';
import type { Delivery } from '../group/group.ts';
import { record } from '../testing/event-record.ts';
import { backoffMs, leftOut, planSettlement, toSinkMessage } from './message.ts';

const event: Delivery = {
  ackId: 'a1',
  attempt: 1,
  message: {
    type: 'event',
    event: new OutgoingEvent(7, { ms: 1_700, seq: 3 }, record({ data: Buffer.from('{"n":9007199254740993}') })),
  },
};

describe('a message', () => {
  test('of an event has its id and is the same JSON as everywhere', () => {
    const { json, ...rest } = toSinkMessage(event);
    expect(rest).toEqual({ id: '07-1700-3', type: 'event', code: 'cam-1', kind: 'alarm.MotionAlarmOn' });
    expect(String(json)).toContain('"data":{"n":9007199254740993}');
  });

  test('of a gap names what is missing, and is the same for every repeat', () => {
    const gap = { shard: 7, from: '07-1-1', to: '07-9-9', count: 7 };
    const message = toSinkMessage({ ...event, message: { type: 'gap', gap } });
    expect(message).toMatchObject({ id: 'gap:07-1-1:07-9-9', type: 'gap', code: '', kind: 'gap' });
    expect(JSON.parse(String(message.json))).toEqual({ gap });
  });

  test('in place of an event that is too large names it', () => {
    const large = toSinkMessage(event);
    const { json, ...rest } = leftOut(large);
    expect(rest).toEqual({ id: '07-1700-3', type: 'omitted', code: 'cam-1', kind: 'omitted' });
    expect(JSON.parse(String(json))).toEqual({
      omitted: {
        id: '07-1700-3',
        code: 'cam-1',
        kind: 'alarm.MotionAlarmOn',
        bytes: large.json.length,
        reason: 'too_large',
      },
    });
  });
});

describe('after the answer of a broker', () => {
  const plan = (statuses: readonly SinkResult['status'][], leaving = false) => {
    const deliveries = statuses.map((_, i) => ({ ackId: `a${i}`, attempt: i + 1 }));
    const results = statuses.map((status) => (status === 'confirmed' ? { status } : { status, reason: status }));
    const { nack, ...rest } = planSettlement(deliveries, results, leaving);
    return { ...rest, nack: Object.fromEntries(nack) };
  };

  test('what is confirmed is acknowledged, and nothing else', () => {
    expect(plan(['confirmed', 'confirmed'])).toEqual({ ack: ['a0', 'a1'], release: [], nack: {}, ended: undefined });
  });

  test('a broker that takes nothing wears out no attempts, and is left alone for a while', () => {
    for (const status of ['unconfirmed', 'unavailable'] as const) {
      expect(plan([status, status])).toEqual({ ack: [], release: ['a0', 'a1'], nack: {}, ended: status });
    }
  });

  test('a message that alone is not taken waits, and the others go on', () => {
    expect(plan(['confirmed', 'refused', 'unavailable', 'too_large'])).toEqual({
      ack: ['a0'],
      release: [],
      nack: { 2: ['a1'], 3: ['a2'], 4: ['a3'] },
      ended: undefined,
    });
    expect(plan(['refused'])).toMatchObject({ nack: { 1: ['a0'] }, ended: undefined });
    expect(plan(['confirmed', 'unconfirmed'])).toMatchObject({ nack: { 2: ['a1'] }, ended: 'unconfirmed' });
  });

  test('a process that leaves gives back all that is not confirmed', () => {
    expect(plan(['confirmed', 'refused', 'unconfirmed'], true)).toMatchObject({
      ack: ['a0'],
      release: ['a1', 'a2'],
      nack: {},
    });
  });
});

test('a pause doubles up to its bound, the last half of it at random', () => {
  const pauses = (random: number) => [0, 1, 5, 500].map((failures) => backoffMs(failures, 500, 8_000, () => random));
  expect(pauses(0)).toEqual([250, 500, 4_000, 4_000]);
  expect(pauses(1)).toEqual([500, 1_000, 8_000, 8_000]);
});
