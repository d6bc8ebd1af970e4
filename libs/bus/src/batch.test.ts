import fc from 'fast-check';
import { expect, test } from 'vitest';
import { batchedBytes, countFrames, encodeBatch, forEachFrame } from './batch.ts';

function encode(frames: readonly Uint8Array[]): Buffer {
  return encodeBatch(
    frames,
    frames.reduce((sum, frame) => sum + batchedBytes(frame), 0),
  );
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
