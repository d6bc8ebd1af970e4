/** Runs the contract suite on a directory and, where OpenStack Swift is installed, on a real S3-compatible server. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'vitest';
import { DirectoryImageStore } from '../directory/directory-image-store.ts';
import { S3ImageStore } from '../s3/s3-image-store.ts';
import { imageStoreContract } from './image-store.ts';
import { missingSwift, startSwift } from './swift.ts';

imageStoreContract('a directory', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'lapi-images-'));
  const root = path.join(dir, 'made', 'when-needed');
  return {
    one: new DirectoryImageStore(root),
    other: new DirectoryImageStore(root),
    stop: () => rm(dir, { recursive: true, force: true }),
  };
});

const missing = missingSwift();
if (missing === undefined) {
  imageStoreContract('S3, as OpenStack Swift speaks it', async () => {
    const { options, stop } = await startSwift('lapi-images');
    return { one: new S3ImageStore(options), other: new S3ImageStore(options), stop };
  });
} else {
  describe('S3', () => {
    test.skip(missing, () => undefined);
  });
}
