import { expect, test } from 'vitest';
import { FrameReader, maskedHead } from './raw-frame.ts';

function serverFrame(text: string): Buffer {
  const payload = Buffer.from(text);
  const head = payload.length < 126 ? Buffer.from([0x81, payload.length]) : Buffer.from([0x81, 126, 0, 0]);
  if (payload.length >= 126) head.writeUInt16BE(payload.length, 2);
  return Buffer.concat([head, payload]);
}

test('frames are found wherever the network cuts them', () => {
  const texts = ['{}', 'x'.repeat(300), 'last'];
  const wire = Buffer.concat(texts.map(serverFrame));
  for (let cut = 0; cut <= wire.length; cut++) {
    const found: string[] = [];
    const reader = new FrameReader((payload) => found.push(payload.toString()));
    reader.read(wire.subarray(0, cut));
    reader.read(wire.subarray(cut));
    expect(found).toEqual(texts);
  }
});

test('a close frame ends the reading', () => {
  const reader = new FrameReader(() => undefined);
  expect(reader.read(Buffer.from([0x88, 2, 3, 0xe8]))).toBe(false);
});

test('a head says the length in as many bytes as it needs, and that a mask follows', () => {
  expect([...maskedHead(125)]).toEqual([0x81, 0x80 | 125, 0, 0, 0, 0]);
  expect([...maskedHead(126)]).toEqual([0x81, 0x80 | 126, 0, 126, 0, 0, 0, 0]);
  expect([...maskedHead(65_536)]).toEqual([0x81, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
});
