/** Pictures as files: `<root>/<hour>/<two hex digits>/<sha256>`. Written under a name of their own and then renamed, so that nobody sees half of
 *  one; a file of another size than its picture is left over from a loss of power and written again. Which kind it is, its first
 *  bytes say. Folders are made when they are needed.
 *  Several machines need a directory that all of them see. A disk that is full, read-only or gone fails `put`. One that hangs (a network file
 *  system) holds up its call for as long, and a thread of the runtime; so only few puts run at once, and threads are left for others. */

import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { contentTypeOf, SIGNATURE_BYTES } from '../content-type.ts';
import { type ImageId, isHour, placeOf } from '../image-id.ts';
import type { ImageStore, OpenImage } from '../image-store.ts';
import { unavailable } from '../unavailable.ts';

/** The runtime has four threads for files, and for looking up names of hosts. */
const PARALLEL_PUTS = 2;
const PIECE_BYTES = 64 * 1024;

export class DirectoryImageStore implements ImageStore {
  readonly place: string;
  readonly parallelPuts = PARALLEL_PUTS;
  readonly #root: string;

  constructor(root: string) {
    this.#root = path.resolve(root);
    this.place = `file:${this.#root}`;
  }

  async put(id: ImageId, bytes: Uint8Array, _contentType: string, signal: AbortSignal): Promise<void> {
    const { hour, part, name } = placeOf(id);
    const folder = path.join(this.#root, hour, part);
    const file = path.join(folder, name);
    const draft = path.join(folder, `.${name}.${randomBytes(8).toString('hex')}`);
    try {
      if ((await sizeOf(file)) === bytes.byteLength) return;
      const handle = await createIn(folder, draft);
      try {
        await handle.writeFile(bytes, { signal });
      } finally {
        await handle.close();
      }
      await rename(draft, file);
    } catch (error) {
      await rm(draft, { force: true }).catch(() => undefined);
      throw unavailable(error);
    }
  }

  async open(id: ImageId): Promise<OpenImage | 'absent'> {
    const { hour, part, name } = placeOf(id);
    let handle: FileHandle;
    try {
      handle = await open(path.join(this.#root, hour, part, name), 'r');
    } catch (error) {
      if (isMissing(error)) return 'absent';
      throw unavailable(error);
    }
    try {
      const { size } = await handle.stat();
      const head = Buffer.alloc(SIGNATURE_BYTES);
      const { bytesRead } = await handle.read(head, 0, head.length, 0);
      return {
        contentType: contentTypeOf(head.subarray(0, bytesRead)),
        totalBytes: size,
        read: (first, last) => pieces(handle, first, last),
        close: () => handle.close(),
      };
    } catch (error) {
      await handle.close();
      throw unavailable(error);
    }
  }

  async sweep(beforeHour: string, signal: AbortSignal): Promise<number> {
    let hours = 0;
    try {
      for (const hour of await namesIn(this.#root)) {
        if (!isHour(hour) || hour >= beforeHour) continue;
        const folder = path.join(this.#root, hour);
        for (const part of await namesIn(folder)) {
          signal.throwIfAborted();
          await rm(path.join(folder, part), { recursive: true, force: true });
        }
        await rm(folder, { recursive: true, force: true });
        hours++;
      }
    } catch (error) {
      throw unavailable(error);
    }
    return hours;
  }
}

async function createIn(folder: string, file: string): Promise<FileHandle> {
  try {
    return await open(file, 'wx', 0o640);
  } catch (error) {
    if (!isMissing(error)) throw error;
    await mkdir(folder, { recursive: true, mode: 0o750 });
    return await open(file, 'wx', 0o640);
  }
}

async function* pieces(handle: FileHandle, first: number, last: number): AsyncGenerator<Uint8Array> {
  for (let at = first; at <= last; ) {
    // A new one each time: the taker keeps it until it has left.
    const piece = Buffer.allocUnsafeSlow(Math.min(PIECE_BYTES, last + 1 - at));
    let bytesRead: number;
    try {
      ({ bytesRead } = await handle.read(piece, 0, piece.length, at));
      if (bytesRead === 0) throw new Error('the file ends early');
    } catch (error) {
      throw unavailable(error);
    }
    at += bytesRead;
    yield piece.subarray(0, bytesRead);
  }
}

async function sizeOf(file: string): Promise<number | undefined> {
  try {
    return (await stat(file)).size;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
