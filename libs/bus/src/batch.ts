/** The bytes of one PUBLISH: frames one after the other, each behind its length (u32, big endian). Pure, but for the memory that batches share.
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

/** Smallest piece of memory for a batch; most batches fit. */
const FIRST_BYTES = 2_048;
const FIRST_BITS = Math.log2(FIRST_BYTES);
/** What is kept for the next batches, at most. */
const MAX_KEPT_BYTES = 8 * 2 ** 20;

/** Memory of batches that have left, for the next ones. Allocating it anew for each made the runtime collect the garbage of its whole heap many
 *  times a second: half of what a node used when answers were large. Pieces are powers of two. */
export class BatchMemory {
  readonly #free: Buffer[][] = [];
  #keptBytes = 0;

  take(bytes: number): Buffer {
    const size = sizeClassOf(bytes);
    const piece = this.#free[size]?.pop();
    if (piece === undefined) return Buffer.allocUnsafeSlow(2 ** (FIRST_BITS + size));
    this.#keptBytes -= piece.length;
    return piece;
  }

  /** Nobody may look at the piece any more. */
  giveBack(piece: Buffer): void {
    if (this.#keptBytes + piece.length > MAX_KEPT_BYTES) return;
    this.#keptBytes += piece.length;
    const size = sizeClassOf(piece.length);
    const free = this.#free[size];
    if (free === undefined) this.#free[size] = [piece];
    else free.push(piece);
  }
}

function sizeClassOf(bytes: number): number {
  return bytes <= FIRST_BYTES ? 0 : 32 - Math.clz32(bytes - 1) - FIRST_BITS;
}

/** Collects frames. Each is copied when it is appended and may change afterwards. */
export class BatchWriter {
  frames = 0;
  readonly #memory: BatchMemory;
  #bytes: Buffer | undefined;
  #used = 0;

  constructor(memory: BatchMemory) {
    this.#memory = memory;
  }

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

  /** A view: only for when nothing will be appended any more, and until `release`. */
  done(): Buffer {
    return this.#roomFor(this.#used).subarray(0, this.#used);
  }

  /** The bytes have left, and nobody looks at them any more. */
  release(): void {
    const bytes = this.#bytes;
    this.#bytes = undefined;
    if (bytes !== undefined) this.#memory.giveBack(bytes);
  }

  #roomFor(end: number): Buffer {
    const bytes = this.#bytes;
    if (bytes !== undefined && bytes.length >= end) return bytes;
    const larger = this.#memory.take(end);
    this.#bytes = larger;
    if (bytes !== undefined) {
      bytes.copy(larger, 0, 0, this.#used);
      this.#memory.giveBack(bytes);
    }
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
