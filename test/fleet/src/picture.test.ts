/** Padded pictures stay JPEGs. */

import { expect, test } from 'vitest';
import { createPictures } from './picture.ts';

/** Walks the segments of a JPEG up to the picture data, and returns where that begins. */
function walkSegments(jpeg: Buffer): number {
  expect(jpeg.readUInt16BE(0)).toBe(0xffd8);
  let at = 2;
  while (jpeg.readUInt16BE(at) !== 0xffda) {
    expect(jpeg[at]).toBe(0xff);
    at += 2 + jpeg.readUInt16BE(at + 2);
  }
  return at;
}

test.each([0, 1000, 70_000, 700 * 1024])(
  'a picture padded to %i bytes is a well-formed JPEG of about that size',
  (wantedBytes) => {
    const { panorama } = createPictures(wantedBytes);
    const jpeg = Buffer.from(panorama.base64, 'base64');
    expect(jpeg.length).toBe(panorama.jpegBytes);
    expect(jpeg.length).toBeGreaterThanOrEqual(wantedBytes);
    expect(jpeg.length).toBeLessThanOrEqual(Math.max(300, wantedBytes + 4));
    expect(walkSegments(jpeg)).toBeLessThan(jpeg.length - 2);
    expect(jpeg.readUInt16BE(jpeg.length - 2)).toBe(0xffd9);
  },
);
