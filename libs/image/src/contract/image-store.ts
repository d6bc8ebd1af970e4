/** What every image store promises (image-store.ts), as tests. */

import { randomBytes } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { hourOf, type ImageId, imageIdOf } from '../image-id.ts';
import type { ImageStore, OpenImage } from '../image-store.ts';

export interface ImageStoreHarness {
  /** Two views of one empty store, as two processes have them. */
  readonly one: ImageStore;
  readonly other: ImageStore;
  stop(): Promise<void>;
}

const HOUR_MS = 3_600_000;
const NOW_MS = Date.UTC(2026, 2, 1, 12, 30);
const DEADLINE_MS = 20_000;

const soon = (): AbortSignal => AbortSignal.timeout(DEADLINE_MS);

/** Begins as a JPEG does. */
export function newPicture(bytes: number): Buffer {
  return Buffer.concat([Buffer.from('ffd8ffe0', 'hex'), randomBytes(bytes - 4)]);
}

export async function readAll(image: OpenImage, first = 0, last = image.totalBytes - 1): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of image.read(first, last)) pieces.push(piece);
  await image.close();
  return Buffer.concat(pieces);
}

export function imageStoreContract(name: string, start: () => Promise<ImageStoreHarness>): void {
  describe(name, () => {
    let harness: ImageStoreHarness;
    beforeAll(async () => {
      harness = await start();
      return () => harness.stop();
    });

    const put = async (bytes: Buffer, nowMs = NOW_MS): Promise<ImageId> => {
      const id = imageIdOf(bytes, nowMs);
      await harness.one.put(id, bytes, 'image/jpeg', soon());
      return id;
    };
    const opened = async (id: ImageId): Promise<OpenImage> => {
      const image = await harness.other.open(id, soon());
      if (image === 'absent') throw new Error('absent');
      return image;
    };

    test.each([5_000, 700_000, 3_000_001])(
      'what one process puts another one reads, byte by byte: %d',
      async (bytes) => {
        const picture = newPicture(bytes);
        const image = await opened(await put(picture));
        expect(image).toMatchObject({ contentType: 'image/jpeg', totalBytes: bytes });
        expect((await readAll(image)).equals(picture)).toBe(true);
      },
    );

    test('a part is read as it was asked for', async () => {
      const picture = newPicture(200_000);
      const id = await put(picture);
      for (const [first, last] of [
        [0, 0],
        [199_999, 199_999],
        [65_535, 131_073],
      ] as const)
        expect((await readAll(await opened(id), first, last)).equals(picture.subarray(first, last + 1))).toBe(true);
    });

    test('putting it again, also at the same time, changes nothing', async () => {
      const picture = newPicture(50_000);
      await Promise.all([put(picture), put(picture), put(picture)]);
      expect((await readAll(await opened(await put(picture)))).equals(picture)).toBe(true);
    });

    test('what was not put is absent, also in another hour', async () => {
      const picture = newPicture(5_000);
      await put(picture);
      expect(await harness.other.open(imageIdOf(picture, NOW_MS + HOUR_MS), soon())).toBe('absent');
      expect(await harness.other.open(imageIdOf(newPicture(5_000), NOW_MS), soon())).toBe('absent');
    });

    test('an image that is opened and not read is let go of', async () => {
      await (await opened(await put(newPicture(5_000)))).close();
    });

    test('a reader may leave in the middle', async () => {
      const image = await opened(await put(newPicture(3_000_000)));
      for await (const piece of image.read(0, image.totalBytes - 1)) {
        expect(piece.byteLength).toBeGreaterThan(0);
        break;
      }
      await image.close();
    });

    test('a sweep removes whole hours before its limit and nothing else', async () => {
      const hourMs = NOW_MS - 48 * HOUR_MS;
      const old = await Promise.all(Array.from({ length: 12 }, () => put(newPicture(2_000), hourMs)));
      const older = await put(newPicture(2_000), hourMs - 30 * 24 * HOUR_MS);
      const kept = await put(newPicture(2_000), hourMs + HOUR_MS);
      expect(await harness.other.sweep(hourOf(hourMs + HOUR_MS), soon())).toBe(2);
      for (const id of [...old, older]) expect(await harness.one.open(id, soon())).toBe('absent');
      expect((await readAll(await opened(kept))).length).toBe(2_000);
      expect(await harness.one.sweep(hourOf(hourMs + HOUR_MS), soon())).toBe(0);
    });

    test('two sweeps at once are as good as one', async () => {
      const hourMs = NOW_MS - 72 * HOUR_MS;
      const old = await Promise.all(Array.from({ length: 6 }, () => put(newPicture(2_000), hourMs)));
      const limit = hourOf(hourMs + HOUR_MS);
      await Promise.all([harness.one.sweep(limit, soon()), harness.other.sweep(limit, soon())]);
      for (const id of old) expect(await harness.one.open(id, soon())).toBe('absent');
    });

    test('only an id of an image leads anywhere', async () => {
      for (const bad of [
        '../../../../etc/passwd',
        '',
        `2026030112-${'A'.repeat(64)}`,
        `2026030112-${'a'.repeat(64)}/..`,
      ]) {
        await expect(harness.one.put(bad as ImageId, newPicture(10), 'x', soon())).rejects.toThrow('not the id');
        await expect(harness.one.open(bad as ImageId, soon())).rejects.toThrow('not the id');
      }
    });

    test('a put that is given up rejects', async () => {
      const picture = newPicture(50_000);
      const id = imageIdOf(picture, NOW_MS);
      await expect(harness.one.put(id, picture, 'image/jpeg', AbortSignal.abort())).rejects.toThrow();
    });
  });
}
