import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BatchWriter, batchedBytes, countFrames, forEachFrame } from './batch.ts';

function encode(frames: readonly Uint8Array[]): Buffer {
  const batch = new BatchWriter();
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
  const batch = new BatchWriter();
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
