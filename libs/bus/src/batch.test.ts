import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BatchMemory, BatchWriter, batchedBytes, countFrames, forEachFrame } from './batch.ts';

function encode(frames: readonly Uint8Array[]): Buffer {
  const batch = new BatchWriter(new BatchMemory());
  for (const frame of frames) batch.append(frame);
  return batch.done();
}

const someFrames = fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 20 });

test('frames come out of a batch as they went in, in order', () => {
  fc.assert(
    fc.property(someFrames, (frames) => {
      const batch = encode(frames);
      expect(countFrames(batch)).toBe(frames.length);
      const out: Buffer[] = [];
      forEachFrame(batch, (frame) => out.push(frame));
      expect(out).toEqual(frames.map((frame) => Buffer.from(frame)));
    }),
  );
});

test('a frame may change once it was appended, and may be written in place', () => {
  const changing = Buffer.from('first');
  const batch = new BatchWriter(new BatchMemory());
  batch.append(changing);
  changing.fill('x');
  batch.append({ length: 3_000, writeTo: (target, at) => void target.fill('y', at, at + 3_000) });
  batch.append(Buffer.from('last'));
  const out: string[] = [];
  forEachFrame(batch.done(), (frame) => out.push(frame.toString()));
  expect(out).toEqual(['first', 'y'.repeat(3_000), 'last']);
  expect({ frames: batch.frames, used: batch.used }).toEqual({ frames: 3, used: 12 + 5 + 3_000 + 4 });
});

test('a batch cut anywhere inside a frame is not a batch', () => {
  fc.assert(
    fc.property(someFrames, fc.nat(), (frames, at) => {
      const batch = encode(frames);
      const borders = new Set<number>();
      let border = 0;
      for (const frame of frames) {
        border += batchedBytes(frame);
        borders.add(border);
      }
      const cut = at % batch.length;
      const counted = countFrames(batch.subarray(0, cut));
      if (!borders.has(cut)) expect(counted).toBeUndefined();
    }),
  );
});

test('whatever bytes arrive, nothing throws and accepted ones add up', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      const batch = Buffer.from(bytes);
      const frames = countFrames(batch);
      if (frames === undefined) return;
      let sum = 0;
      forEachFrame(batch, (frame) => {
        sum += batchedBytes(frame);
      });
      expect(sum).toBe(batch.length);
    }),
    { numRuns: 5000 },
  );
});

test('memory serves the next batch after its release and never before', () => {
  const memory = new BatchMemory();
  const first = new BatchWriter(memory);
  first.append(Buffer.from('first'));
  const bytes = first.done();
  const second = new BatchWriter(memory);
  second.append(Buffer.from('second'));
  expect(second.done().buffer).not.toBe(bytes.buffer);
  first.release();
  first.release();
  const third = new BatchWriter(memory);
  third.append(Buffer.from('third'));
  expect(third.done().buffer).toBe(bytes.buffer);
  const fourth = new BatchWriter(memory);
  fourth.append(Buffer.from('fourth'));
  expect(fourth.done().buffer).not.toBe(bytes.buffer);
});

test('a piece has room for what was asked for, and a bounded number of bytes is kept', () => {
  const memory = new BatchMemory();
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 21 }), (bytes) => {
      const piece = memory.take(bytes);
      expect(piece.length).toBeGreaterThanOrEqual(bytes);
      expect(piece.length).toBeLessThan(Math.max(2_049, 2 * bytes));
      memory.giveBack(piece);
    }),
  );
  const pieces = Array.from({ length: 100 }, () => memory.take(2 ** 20));
  for (const piece of pieces) memory.giveBack(piece);
  const again = Array.from({ length: 100 }, () => memory.take(2 ** 20));
  expect(again.filter((piece) => pieces.includes(piece)).length).toBeLessThanOrEqual(8);
});
