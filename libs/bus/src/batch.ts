/** The bytes of one PUBLISH: frames one after the other, each behind its length (u32, big endian). Pure.
 *  A batch that does not add up to its last byte is foreign or cut: none of it is delivered, because its borders cannot be trusted. */

const LENGTH_BYTES = 4;

/** Bytes that are made where they are wanted, so that a frame is copied once on its way: from its source into the batch. */
export interface FrameSource {
  readonly length: number;
  /** Writes exactly `length` bytes from `at` on. */
  writeTo(target: Buffer, at: number): void;
}

export type Frame = Uint8Array | FrameSource;

/** What a frame takes in a batch. */
export function batchedBytes(frame: { readonly length: number }): number {
  return LENGTH_BYTES + frame.length;
}

/** Most batches fit, and it is small enough to come from the runtime's pool. */
const FIRST_BYTES = 2_048;

/** Collects frames. Each is copied when it is appended and may change afterwards. */
export class BatchWriter {
  frames = 0;
  #bytes: Buffer | undefined;
  #used = 0;

  get used(): number {
    return this.#used;
  }

  append(frame: Frame): void {
    const start = this.#used;
    const end = start + batchedBytes(frame);
    const bytes = this.#roomFor(end);
    bytes.writeUInt32BE(frame.length, start);
    if (frame instanceof Uint8Array) bytes.set(frame, start + LENGTH_BYTES);
    else frame.writeTo(bytes, start + LENGTH_BYTES);
    this.#used = end;
    this.frames++;
  }

  /** A view: only for when nothing will be appended any more. */
  done(): Buffer {
    return this.#roomFor(this.#used).subarray(0, this.#used);
  }

  #roomFor(end: number): Buffer {
    const bytes = this.#bytes;
    if (bytes !== undefined && bytes.length >= end) return bytes;
    const larger = Buffer.allocUnsafe(Math.max(FIRST_BYTES, end, 2 * (bytes?.length ?? 0)));
    bytes?.copy(larger, 0, 0, this.#used);
    this.#bytes = larger;
    return larger;
  }
}

/** Number of frames in a well-formed batch, else undefined. */
export function countFrames(batch: Buffer): number | undefined {
  let frames = 0;
  let at = 0;
  while (at + LENGTH_BYTES <= batch.length) {
    at += LENGTH_BYTES + batch.readUInt32BE(at);
    frames++;
  }
  return at === batch.length && frames > 0 ? frames : undefined;
}

/** Calls back for each frame, in order, with a view into the batch. Only for batches that `countFrames` accepted. */
export function forEachFrame(batch: Buffer, onFrame: (frame: Buffer) => void): void {
  for (let at = 0; at < batch.length; ) {
    const start = at + LENGTH_BYTES;
    const end = start + batch.readUInt32BE(at);
    onFrame(batch.subarray(start, end));
    at = end;
  }
}
