import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type DeviceCode, type Epoch, type InstanceId, newCommandId, type SessionId } from '../id.ts';
import { COMMAND_FRAME, decodeCommandFrame, encodeCommandFrame, LAPI_METHODS } from './command-frame.ts';
import { type ControlMessage, decodeControlFrame, encodeControlFrame } from './control-frame.ts';
import { decodeEndedFrame, encodeEndedFrame } from './ended-frame.ts';
import { type EventRecord, fromStreamFields, toStreamFields } from './event.ts';
import { decodeReplyFrame, encodeReplyFrame, REPLY_FRAME, REPLY_OUTCOMES } from './reply-frame.ts';
import { decodeShownFrame, encodeShownFrame } from './shown-frame.ts';

const codes = fc.stringMatching(/^[A-Za-z0-9._:-]{1,64}$/).map((text) => text as DeviceCode);
const epochs = fc.maxSafeNat().map((value) => value as Epoch);
const bodies = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));

const commands = fc.record({
  id: fc.maxSafeNat(),
  replyTo: fc.stringMatching(/^[a-z0-9]{1,40}$/).map((text) => text as InstanceId),
  code: codes,
  epoch: epochs,
  deadlineMs: fc.double({ min: 0, max: 4e12, noNaN: true }),
  method: fc.constantFrom(...LAPI_METHODS),
  url: fc.string({ unit: 'grapheme', maxLength: 500 }).map((text) => `/LAPI/${text}`),
  body: bodies,
});

const replies = fc.record({
  id: fc.maxSafeNat(),
  outcome: fc.constantFrom(...REPLY_OUTCOMES),
  written: fc.boolean(),
  success: fc.boolean(),
  responseCode: fc.option(fc.integer(), { nil: undefined }),
  body: bodies,
});

test('a command arrives as it was sent', () => {
  fc.assert(
    fc.property(commands, (command) => {
      const arrived = decodeCommandFrame(encodeCommandFrame(command));
      expect(arrived).toEqual(command);
    }),
  );
});

test('a reply arrives as it was sent, an absent ResponseCode staying absent', () => {
  fc.assert(
    fc.property(replies, (reply) => {
      expect(decodeReplyFrame(encodeReplyFrame(reply))).toEqual(reply);
    }),
  );
});

test('a frame cut anywhere before its body is refused, never misread', () => {
  fc.assert(
    fc.property(commands, replies, fc.double({ min: 0, max: 0.999, noNaN: true }), (command, reply, part) => {
      const commandBytes = encodeCommandFrame(command);
      const commandHead = commandBytes.length - command.body.length;
      expect(decodeCommandFrame(commandBytes.subarray(0, Math.floor(commandHead * part)))).toBeUndefined();
      const replyBytes = encodeReplyFrame(reply);
      const replyHead = replyBytes.length - reply.body.length;
      expect(decodeReplyFrame(replyBytes.subarray(0, Math.floor(replyHead * part)))).toBeUndefined();
    }),
  );
});

test('frames of another type, method or outcome are refused', () => {
  fc.assert(
    fc.property(commands, replies, fc.integer({ min: 0, max: 255 }), (command, reply, byte) => {
      const commandBytes = encodeCommandFrame(command);
      const replyBytes = encodeReplyFrame(reply);
      expect(decodeCommandFrame(replyBytes)).toBeUndefined();
      expect(decodeReplyFrame(commandBytes)).toBeUndefined();
      expect(decodeControlFrame(commandBytes)).toBeUndefined();
      commandBytes[0] = byte;
      expect(decodeCommandFrame(commandBytes) !== undefined).toBe(byte === COMMAND_FRAME);
      commandBytes[0] = COMMAND_FRAME;
      commandBytes[1] = byte;
      expect(decodeCommandFrame(commandBytes) !== undefined).toBe(byte < LAPI_METHODS.length);
      replyBytes[0] = byte;
      expect(decodeReplyFrame(replyBytes) !== undefined).toBe(byte === REPLY_FRAME);
      replyBytes[0] = REPLY_FRAME;
      replyBytes[1] = byte;
      expect(decodeReplyFrame(replyBytes) !== undefined).toBe(byte < REPLY_OUTCOMES.length);
    }),
  );
});

test('no bytes make a decoder throw', () => {
  const anyBytes = fc.tuple(fc.integer({ min: 0, max: 5 }), bodies).map(([type, rest]) => Buffer.from([type, ...rest]));
  fc.assert(
    fc.property(fc.oneof(bodies, anyBytes), (bytes) => {
      decodeCommandFrame(bytes);
      decodeReplyFrame(bytes);
      decodeControlFrame(bytes);
      decodeShownFrame(bytes);
    }),
    { numRuns: 2000 },
  );
});

const code = '210235TEST0000000001' as DeviceCode;

test.each<ControlMessage>([
  { type: 'superseded', code, epoch: 5 as Epoch },
  { type: 'disconnect', code },
  { type: 'provisioning_changed', code },
  { type: 'lane_ready', code },
  { type: 'lane_ready', code, lane: 'urgent' },
  { type: 'show_session', code, ask: 4_294_967_295, replyTo: 'c1' as InstanceId },
])('control message $type arrives as it was sent, and not when cut short', (message) => {
  const bytes = encodeControlFrame(message);
  expect(decodeControlFrame(bytes)).toEqual(message);
  for (let length = 0; length < bytes.length; length++)
    expect(decodeControlFrame(bytes.subarray(0, length))).toBeUndefined();
});

test('control messages of another version are refused', () => {
  const frame = (json: string): Buffer => Buffer.from(`\u0003${json}`);
  expect(decodeControlFrame(frame(`{"type":"disconnect","code":"${code}"}`))).toBeDefined();
  for (const json of [
    `{"type":"explode","code":"${code}"}`,
    '{"type":"disconnect"}',
    '{"type":"disconnect","code":"a b"}',
    `{"type":"superseded","code":"${code}"}`,
    `{"type":"superseded","code":"${code}","epoch":"5"}`,
    `{"type":"lane_ready","code":"${code}","lane":"fast"}`,
    `{"type":"show_session","code":"${code}","ask":1}`,
    `{"type":"show_session","code":"${code}","ask":-1,"replyTo":"c1"}`,
    'null',
    '[]',
    '5',
  ]) {
    expect(decodeControlFrame(frame(json))).toBeUndefined();
  }
  expect(decodeControlFrame(Buffer.from(`\u0004{"type":"disconnect","code":"${code}"}`))).toBeUndefined();
});

test('the end of a command arrives as it was sent; a frame that names no command is refused', () => {
  const id = newCommandId(7, 'k3v9x2m4q8w1z5t6r0ya');
  const bytes = encodeEndedFrame(id);
  expect(decodeEndedFrame(bytes)).toBe(id);
  for (let length = 0; length < bytes.length; length++)
    expect(decodeEndedFrame(bytes.subarray(0, length))).toBeUndefined();
  expect(decodeEndedFrame(Buffer.concat([bytes, bytes.subarray(1)]))).toBeUndefined();
  expect(decodeEndedFrame(Buffer.concat([Buffer.of(3), bytes.subarray(1)]))).toBeUndefined();
});

test('a shown session arrives as it was sent; a frame that names no question is refused', () => {
  for (const text of ['', '{"s":"session","a":"Straße"}']) {
    const bytes = encodeShownFrame({ ask: 4_294_967_295, text });
    expect(decodeShownFrame(bytes)).toEqual({ ask: 4_294_967_295, text });
    for (let length = 0; length < 5; length++) expect(decodeShownFrame(bytes.subarray(0, length))).toBeUndefined();
    expect(decodeShownFrame(Buffer.concat([Buffer.of(4), bytes.subarray(1)]))).toBeUndefined();
  }
});

const events = fc.record({
  code: codes,
  kind: fc.constantFrom('structure', 'alarm.MotionAlarmOn', 'presence.online'),
  url: fc.string({ unit: 'grapheme' }),
  at: fc.nat({ max: 4e12 }),
  receivedAt: fc.nat({ max: 4e12 }),
  epoch: epochs,
  session: fc.constantFrom('' as const, 's1' as SessionId),
  seq: fc.nat(),
  tags: fc.array(fc.stringMatching(/^[a-z0-9-]{1,8}$/), { maxLength: 4 }),
  dedupKey: fc.string({ unit: 'grapheme' }),
  images: fc.constantFrom('', '[{"path":"/StructureInfo/ImageInfoList/0/Data"}]'),
  data: bodies,
});

test('an event leaves the stream as it entered, also with fields of a newer writer beside its own', () => {
  fc.assert(
    fc.property(events, (event: EventRecord) => {
      const fields = toStreamFields(event).map((field) => (typeof field === 'string' ? Buffer.from(field) : field));
      expect(fromStreamFields(fields)).toEqual(event);
      expect(fromStreamFields([Buffer.from('new'), Buffer.from('1'), ...fields])).toEqual(event);
    }),
  );
});

test('fields an older writer did not know get their empty value', () => {
  expect(fromStreamFields([Buffer.from('c'), Buffer.from(code)])).toEqual({
    code,
    kind: '',
    url: '',
    at: 0,
    receivedAt: 0,
    epoch: 0,
    session: '',
    seq: 0,
    tags: [],
    dedupKey: '',
    images: '',
    data: Buffer.from('{}'),
  });
});
