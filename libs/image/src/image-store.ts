/** Keeps pictures for some hours, named by what they are (image-id.ts).
 *  - A picture is there whole or not at all; putting it again changes nothing.
 *  - What was put is found by every process that opened the same store.
 *  - Store away, full or slow: `put`, `open`, `read` and `sweep` fail with `broker_unavailable`; nothing is tried again here.
 *  Not a promise: that a picture survives a loss of power right after it was put. Its event says what it was. */

import type { ImageId } from './image-id.ts';

export interface OpenImage {
  readonly contentType: string;
  readonly totalBytes: number;
  /** Bytes `first`…`last`, both included, in pieces, as fast as they are taken. At most once. */
  read(first: number, last: number): AsyncIterable<Uint8Array>;
  /** Lets go of it, read or not. */
  close(): Promise<void>;
}

export interface ImageStore {
  /** For a log: no credentials. */
  readonly place: string;
  /** So many puts at once serve it best. */
  readonly parallelPuts: number;
  /** Rejects once `signal` is aborted, as soon as the store lets it; the picture may be there all the same. */
  put(id: ImageId, bytes: Uint8Array, contentType: string, signal: AbortSignal): Promise<void>;
  open(id: ImageId, signal: AbortSignal): Promise<OpenImage | 'absent'>;
  /** Removes all pictures of hours before this one (`yyyymmddhh`). Answers how many such hours there were. Safe beside other sweeps. */
  sweep(beforeHour: string, signal: AbortSignal): Promise<number>;
}
