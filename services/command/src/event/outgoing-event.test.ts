import type { DeviceCode, Epoch } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { record } from '../testing/event-record.ts';
import { OutgoingEvent } from './outgoing-event.ts';

const PLACE = { ms: 1735689600000, seq: 0 };

function textOf(data: string | Buffer, part: Parameters<typeof record>[0] = {}): string {
  return new OutgoingEvent(7, PLACE, record({ data: Buffer.from(data), ...part })).json().toString();
}

describe('OutgoingEvent', () => {
  it('has all members of the event model, in one order, also where there is nothing to say', () => {
    expect(textOf('{"a":1}', { seq: 0, at: 0, receivedAt: 1735689600123, epoch: 1735689600000001 as Epoch })).toBe(
      `{"id":"07-1735689600000-0","seq":0,"code":"cam-1","kind":"alarm.MotionAlarmOn",` +
        `"url":"/LAPI/V1.0/System/Event/Notification/Alarm","at":"1970-01-01T00:00:00.000Z",` +
        `"receivedAt":"2025-01-01T00:00:00.123Z","epoch":1735689600000001,"tags":[],"dedupKey":null,"images":[],"data":{"a":1}}`,
    );
    const images = `[{"path":"/A/0/Data","contentType":"image/jpeg","bytes":9,"sha256":"${'0'.repeat(64)}","url":"/v1/images/x"}]`;
    const full = textOf('{}', { seq: 9, tags: ['site-7', 'gate'], dedupKey: 'cam|x|1', images });
    expect(JSON.parse(full)).toMatchObject({ seq: 9, tags: ['site-7', 'gate'], dedupKey: 'cam|x|1' });
    expect(full).toContain(`"images":${images},`);
  });

  it('passes integers above 2^53 and every other digit unchanged (E18)', () => {
    const data = '{"Id":18446744073709551615,"F":1.10,"E":1E2,"Z":-0}';
    expect(textOf(data)).toContain(`"data":${data}}`);
  });

  it('is one line whatever line ends stand between the tokens of the device', () => {
    const text = textOf('{\r\n  "a": 1,\n\t"b": "x\\ny"\r}');
    expect(text).not.toMatch(/[\r\n]/);
    expect((JSON.parse(text) as { data: unknown }).data).toEqual({ a: 1, b: 'x\ny' });
  });

  it('cannot be forged into another field by a device string', () => {
    const frame = new OutgoingEvent(
      0,
      PLACE,
      record({ kind: 'alarm.x\n\ndata: {}', url: '/LAPI/"\r\nid: 1', dedupKey: '\n\n' }),
    )
      .sse('CURSOR')
      .toString();
    expect(frame.split('\n')).toHaveLength(4);
    expect(frame.startsWith('id: CURSOR\ndata: {')).toBe(true);
    expect(frame.endsWith('}\n\n')).toBe(true);
  });

  it('is valid UTF-8 even when the device was not', () => {
    expect(textOf(Buffer.from([0x22, 0xff, 0x22]))).toContain('"data":"\uFFFD"');
    expect(textOf('"Grüße 漢字"', { code: 'a' as DeviceCode })).toContain('"data":"Grüße 漢字"');
  });

  it('keeps any JSON value as it is', () => {
    fc.assert(
      fc.property(fc.json(), (data) => {
        expect((JSON.parse(textOf(data)) as { data: unknown }).data).toEqual(JSON.parse(data));
      }),
    );
    expect((JSON.parse(textOf('')) as { data: unknown }).data).toBeNull();
  });

  it('writes its JSON once, and one SSE message for all subscribers with the same cursor', () => {
    const event = new OutgoingEvent(1, PLACE, record());
    expect(event.json()).toBe(event.json());
    expect(event.sse('a')).toBe(event.sse('a'));
    expect(event.sse('b').toString()).toContain('id: b\n');
  });
});
