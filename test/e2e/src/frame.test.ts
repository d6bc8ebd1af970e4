/** What reaches a session in frames and envelopes, good and bad (protocol §6): L21, L23, L24, and what else a session survives. */

import { type Broker, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, answerTo, DEVICE_INFO, Device, KEEPALIVE, type ReceivedCall, takeText } from './device.ts';
import { EventReader } from './event-reader.ts';
import { type Setting, startSetting, timed } from './setting.ts';
import { encodeFrame, nonceOf, REGISTER, registerQuery, Wire } from './wire.ts';

const MiB = 1024 * 1024;

let setting: Setting;
let broker: Broker;
/** On the edge where sessions are broken on purpose: it must not notice. */
let bystander: Device;

beforeAll(async () => {
  setting = await startSetting();
  broker = setting.broker;
  bystander = await Device.online(broker, { settings: { profile: 'quiet' } });
  bystander.answering();
});
afterAll(() => setting.stop());

const closedFor = (reason: string): Promise<number> =>
  broker.metric(broker.edges[0] as Broker['edges'][number], 'lapi_session_closed_total', { reason });

async function expectBystanderUndisturbed(): Promise<void> {
  expect(bystander.wire.closed).toBe(false);
  const { result, tookMs } = await timed(bystander.keepalive());
  expect(result).toContain('"ResponseCode":0');
  expect(tookMs).toBeLessThan(1_000);
  expect((await broker.api(`/v1/devices/${bystander.code}${DEVICE_INFO}`)).status).toBe(200);
}

async function expectEnd(device: Device, reason: string, count: number): Promise<void> {
  await device.wire.untilClosed();
  const row = await broker.untilOnline(device.code, false);
  expect(row.lastOffline).toMatchObject({ reason });
  const reader = await EventReader.replay(broker, `device=${device.code}&kind=presence.*`);
  expect((await reader.presence(device.code, 'offline')).data).toMatchObject({ reason });
  await waitFor(async () => (await closedFor(reason)) === count, { deadlineMs: 2_000, what: `${count} × ${reason}` });
}

describe('one bad session on an edge of many', () => {
  const long = (bytes: number): string =>
    `{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":1,"Data":{"x":"${'x'.repeat(bytes)}"}}`;

  test.each<[string, string, (device: Device) => void]>([
    ['a message above 16 MiB in one frame', 'too_big', ({ wire }) => wire.frame(long(16 * MiB))],
    [
      'a message above 16 MiB in fragments',
      'too_big',
      ({ wire }) => {
        wire.frame('x'.repeat(9 * MiB), { final: false });
        wire.frame('x'.repeat(8 * MiB), { opcode: 0 });
      },
    ],
    ['text that is not UTF-8', 'bad_utf8', ({ wire }) => wire.frame(Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]))],
    ['a lone surrogate', 'bad_utf8', ({ wire }) => wire.frame(Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]))],
    ['RSV1 set', 'bad_frame', ({ wire }) => wire.frame('{}', { rsv: 4 })],
    ['RSV2 set', 'bad_frame', ({ wire }) => wire.frame('{}', { rsv: 2 })],
    ['RSV3 set', 'bad_frame', ({ wire }) => wire.frame('{}', { rsv: 1 })],
    ['a reserved opcode', 'bad_frame', ({ wire }) => wire.frame('{}', { opcode: 3 })],
    ['a continuation of nothing', 'bad_frame', ({ wire }) => wire.frame('{}', { opcode: 0 })],
  ])('L23: %s ends that session as %s, others do not notice', async (_what, reason, send) => {
    const before = await closedFor(reason);
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    await broker.untilOnline(device.code);
    send(device);
    await expectEnd(device, reason, before + 1);
    // Dropped by the transport, without a close frame (E3, E6).
    expect(device.wire.closeCode).toBeUndefined();
    await expectBystanderUndisturbed();
    await device.register();
    expect(await device.keepalive()).toContain('"ResponseCode":0');
  });

  test('a device whose sessions keep ending for misbehaviour is kept away, with an alarm, others do not notice', async () => {
    const device = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
    const reader = await EventReader.open(broker, `device=${device.code}`);
    const rejected = (): Promise<number> =>
      broker.metric(broker.edges[0] as Broker['edges'][number], 'lapi_register_rejected_total', {
        reason: 'quarantine',
      });
    const before = await rejected();
    for (let times = 1; times <= 6; times++) {
      await device.register();
      device.wire.frame('{}', { rsv: 4 });
      const { data } = await reader.presence(device.code, 'offline', { times });
      expect(data.reason).toBe(times < 6 ? 'bad_frame' : 'quarantined');
    }
    const { data } = await reader.until(({ kind }) => kind === 'device.quarantined');
    expect(data).toMatchObject({ reason: 'bad_frame', ends: 6, windowSeconds: 60, address: '127.0.0.1' });
    expect(await broker.untilOnline(device.code, false)).toMatchObject({
      lastOffline: { reason: 'quarantined' },
      held: { reason: 'quarantined', until: data.heldUntil, addresses: ['127.0.0.1'] },
    });
    const wire = await Wire.connect(broker.edgeUrl());
    const answer = await wire.get(`${REGISTER}?${registerQuery(device.identity, nonceOf(await wire.get(REGISTER)))}`);
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([429, '30']);
    await wire.untilClosed();
    expect(await rejected()).toBe(before + 1);
    await expectBystanderUndisturbed();
  });

  test('E3: a message just below 16 MiB is taken', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const text = long(0);
    device.wire.frame(long(16 * MiB - text.length));
    await takeText(device.wire, (answer) => answer.includes(KEEPALIVE) && answer.includes('"Cseq":1'), 15_000);
    await expectBystanderUndisturbed();
  });

  test('L23: a binary message is counted and dropped, and the session goes on', async () => {
    const edge = broker.edges[0] as Broker['edges'][number];
    const binaries = (): Promise<number> => broker.metric(edge, 'lapi_device_frames_total', { type: 'binary' });
    const before = await binaries();
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.wire.frame(`{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":5,"Data":{}}`, { opcode: 2 });
    device.wire.frame(Buffer.from([0xff, 0x00, 0x80]), { opcode: 2 });
    expect(await device.keepalive('6')).toContain('"Cseq":6');
    expect(device.wire.texts().filter((text) => text.includes(KEEPALIVE))).toEqual([]);
    await waitFor(async () => (await binaries()) === before + 2, { deadlineMs: 2_000, what: 'two counted binaries' });
    expect(device.wire.closed).toBe(false);
  });

  /** Without a mask, as firmware of 2022 answers. The transport takes its first four bytes for a mask. */
  const unmaskedAnswer = (call: ReceivedCall, length: number): Buffer => {
    const text = JSON.stringify(answerTo(call, { Data: { DeviceName: '' } }));
    const padded = text.replace('""', `"${'n'.repeat(length - text.length)}"`);
    expect(padded.startsWith('{"Re')).toBe(true);
    return encodeFrame(padded, { masked: false });
  };
  /** Its head and the first bytes of its mask are read as the last four bytes of the frame before. */
  const keepaliveFrame = (): Buffer => {
    const text = `{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":1,"Data":{}}`;
    expect(text.length).toBeGreaterThan(64);
    expect(text.length).toBeLessThan(126);
    return encodeFrame(text, { maskKey: Buffer.from([1, 2, 3, 4]) });
  };

  test.each([
    // `R` over the head gives the first byte of a two-byte character: the garbage is valid text and reaches the codec.
    ['delivered as garbage text (E5 a)', 302, 1008],
    // `"` over the head gives a stray continuation byte: the transport drops the connection itself.
    ['dropped by the transport (E5 b)', 301, undefined],
  ])(
    'L24: an unmasked answer before a masked keepalive, %s, ends as unmasked and is never given to the caller',
    async (_what, length, code) => {
      const before = await closedFor('unmasked');
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      device.answering(() => undefined);
      const calling = broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`);
      const asked = await device.untilCalled(DEVICE_INFO);
      device.wire.write(Buffer.concat([unmaskedAnswer(asked, length), keepaliveFrame()]));
      const answer = await calling;
      expect(answer.status).toBe(502);
      expect(answer.json()).toMatchObject({ source: 'broker', error: 'outcome_unknown', written: true });
      await expectEnd(device, 'unmasked', before + 1);
      expect(device.wire.closeCode).toBe(code);
      await expectBystanderUndisturbed();
    },
  );

  test('E5: a session that has given valid answers is not taken for unmasked firmware when a frame of it is bad', async () => {
    const before = await closedFor('bad_utf8');
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    expect((await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`)).status).toBe(200);
    device.wire.frame(Buffer.from([0x22, 0xff, 0x22]));
    await expectEnd(device, 'bad_utf8', before + 1);
  });

  test('E16: four malformed messages are ignored, the fifth in a row ends the session with 1007', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const deep = `{"RequestURL":"/x","Data":${'['.repeat(70)}${']'.repeat(70)}}`;
    for (const text of ['{', 'hello', deep, '[1,]']) device.wire.frame(text);
    expect(await device.keepalive()).toContain('"ResponseCode":0');
    for (const text of ['{', 'hello', deep, '[1,]']) device.wire.frame(text);
    expect(device.wire.closed).toBe(false);
    device.wire.frame('{"a":}');
    await device.wire.untilClosed();
    expect(device.wire.closeCode).toBe(1007);
    expect((await broker.untilOnline(device.code, false)).lastOffline).toMatchObject({ reason: 'bad_json' });
  });
});

describe.concurrent('tolerance', () => {
  const call = (device: Device, url = DEVICE_INFO) => broker.api(`/v1/devices/${device.code}${url}`);

  test.each<[string, (cseq: number) => string, number, Record<string, unknown>]>([
    [
      'Data as the string "null"',
      (n) => `{"ResponseURL":"/x","ResponseCode":0,"Cseq":${n},"Data":"null"}`,
      200,
      { ResponseCode: 0 },
    ],
    [
      'no Data',
      (n) => `{"ResponseURL":"/x","ResponseCode":0,"ResponseString":"Succeed","Cseq":${n}}`,
      200,
      { ResponseString: 'Succeed' },
    ],
    ['Data null', (n) => `{"ResponseURL":"/x","ResponseCode":0,"Cseq":${n},"Data":null}`, 200, { ResponseCode: 0 }],
    [
      'StatusCode "0"',
      (n) => `{"ResponseURL":"/x","ResponseCode":0,"StatusCode":"0","Cseq":${n},"Data":{"a":1}}`,
      200,
      { Data: { a: 1 } },
    ],
    [
      'an answer wrapped in Response',
      (n) => `{"Response":{"ResponseURL":"/x","ResponseCode":0,"Cseq":${n},"Data":{"a":2}}}`,
      200,
      { Data: { a: 2 } },
    ],
    [
      'a wrapped refusal',
      (n) => `{"Response":{"ResponseURL":"/x","ResponseCode":4,"Cseq":${n}}}`,
      501,
      { ResponseCode: 4 },
    ],
    [
      'top-level names in other letter case',
      (n) => `{"responseurl":"/x","RESPONSECODE":0,"cseq":${n},"data":{"a":3}}`,
      200,
      { data: { a: 3 } },
    ],
    [
      'a byte order mark',
      (n) => `\ufeff{"ResponseURL":"/x","ResponseCode":0,"Cseq":${n},"Data":{"a":4}}`,
      200,
      { Data: { a: 4 } },
    ],
    [
      'a trailing NUL',
      (n) => `{"ResponseURL":"/x","ResponseCode":0,"Cseq":${n},"Data":{"a":5}}\u0000`,
      200,
      { Data: { a: 5 } },
    ],
    [
      'trailing CRLF and blanks',
      (n) => `{"ResponseURL":"/x","ResponseCode":0,"Cseq":${n},"Data":{"a":6}} \r\n \u0000`,
      200,
      { Data: { a: 6 } },
    ],
    [
      'raw control characters in a string',
      (n) => `{"ResponseURL":"/x","ResponseCode":0,"Cseq":${n},"Data":{"a":"b\tc"}}`,
      200,
      { Data: { a: 'b\tc' } },
    ],
    [
      'pretty-printed JSON',
      (n) =>
        `{\r\n  "ResponseURL": "/x",\r\n  "ResponseCode": 0,\r\n  "Cseq": ${n},\r\n  "Data": {\r\n    "a": 7\r\n  }\r\n}`,
      200,
      { Data: { a: 7 } },
    ],
    [
      'extra members',
      (n) => `{"ResponseURL":"/x","ResponseCode":0,"SubResponseCode":3,"CreatedID":-1,"StatusString":"ok","Cseq":${n}}`,
      200,
      { SubResponseCode: 3, CreatedID: -1, StatusString: 'ok' },
    ],
  ])('L21: an answer with %s is understood', async (_what, text, status, members) => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering(({ cseq }) => text(cseq));
    const answer = await call(device);
    expect(answer.status).toBe(status);
    expect(answer.json()).toMatchObject({ ...members, source: 'device' });
  });

  test.each([
    ['requestURL', `{"requestURL":"${KEEPALIVE}","method":"PUT","cseq":31,"data":{}}`],
    ['REQUESTURL', `{"REQUESTURL":"${KEEPALIVE}","METHOD":"PUT","CSEQ":31,"DATA":{}}`],
    ['a byte order mark and a trailing NUL', `\ufeff{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":31}\u0000`],
    ['Data "null"', `{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":31,"Data":"null"}`],
    ['no Data and another Method', `{"RequestURL":"${KEEPALIVE}","Method":"POST","Cseq":31}`],
    ['no Method at all', `{"RequestURL":"${KEEPALIVE}","Cseq":31}`],
  ])('L21: a keepalive with %s is answered, in exact spelling', async (_what, text) => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.wire.frame(text);
    const answer = await takeText(device.wire, (each) => each.includes(KEEPALIVE));
    expect(answer).toMatch(/^\{"ResponseURL":"[^"]+","ResponseCode":0,"ResponseString":"Succeed","Cseq":31,"Data":\{/);
  });

  test('L21: an event whose Data is JSON text inside a string is stored as that JSON', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const reader = await EventReader.open(broker, `device=${device.code}`);
    const data = alarm(4);
    expect(await device.notify('Alarm', JSON.stringify(JSON.stringify(data)))).toMatchObject({ ResponseCode: 0 });
    const event = await reader.until(({ kind }) => kind === 'alarm.MotionAlarmOn');
    expect(event.data).toEqual(data);
  });

  test.each([',"Data":"null"', ',"Data":null', ',"Data":""', ''])(
    'L21: an event with %j has empty Data',
    async (member) => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const reader = await EventReader.open(broker, `device=${device.code}`);
      device.wire.frame(
        `{"RequestURL":"/LAPI/V1.0/System/Event/Notification/Alarm","Method":"POST","Cseq":1${member}}`,
      );
      expect(await device.wire.response(1)).toMatchObject({ ResponseCode: 0 });
      expect((await reader.until(({ kind }) => kind === 'alarm')).text).toMatch(/"data":\{\}\}$/);
    },
  );

  test('E2: a message in single-byte fragments with pings between them is one message, and each ping gets its pong', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const bytes = Buffer.from(`{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":"é","Data":{}}`);
    for (const [i, byte] of bytes.entries()) {
      device.wire.frame(Buffer.from([byte]), { opcode: i === 0 ? 1 : 0, final: i === bytes.length - 1 });
      if (i % 16 === 0) device.wire.frame(`ping ${i}`, { opcode: 9 });
    }
    await takeText(device.wire, (text) => text.includes(KEEPALIVE) && text.includes('"Cseq":"é"'));
    const pongs = device.wire.frames.filter(({ opcode }) => opcode === 10).map(({ payload }) => payload.toString());
    expect(pongs).toEqual(Array.from({ length: Math.ceil(bytes.length / 16) }, (_, i) => `ping ${i * 16}`));
  });

  test('E9: a message that is neither request nor answer is ignored, as often as it comes', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    for (let i = 0; i < 20; i++)
      device.wire.frame(['{}', '{"Cseq":1}', '[]', '"text"', '{"RequestURL":5}'][i % 5] as string);
    expect(await device.keepalive()).toContain('"ResponseCode":0');
    expect(device.wire.closed).toBe(false);
  });

  test('S14: names such as __proto__ in answers and events are ordinary members', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const reader = await EventReader.open(broker, `device=${device.code}`);
    const odd = '{"__proto__":{"polluted":true},"constructor":1,"prototype":{"x":[]}}';
    await device.notify('Alarm', odd);
    const event = await reader.until(({ kind }) => kind === 'alarm');
    expect(event.text).toContain(`"data":${odd}`);
    device.answering(({ cseq }) => `{"ResponseURL":"/x","ResponseCode":0,"Cseq":${cseq},"Data":${odd}}`);
    const answer = await call(device);
    expect(answer.status).toBe(200);
    expect(answer.text).toContain(`"Data":${odd}`);
    expect((await call(device)).status).toBe(200);
  });
});
