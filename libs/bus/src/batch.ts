/** The bytes of one PUBLISH: frames one after the other, each behind its length (u32, big endian). Pure.
 *  A batch that does not add up to its last byte is foreign or cut: none of it is delivered, because its borders cannot be trusted. */

const LENGTH_BYTES = 4;

/** What a frame takes in a batch. */
export function batchedBytes(frame: Uint8Array): number {
  return LENGTH_BYTES + frame.length;
}

/** `bytes` is the sum of `batchedBytes` over the frames. */
export function encodeBatch(frames: readonly Uint8Array[], bytes: number): Buffer {
  const batch = Buffer.allocUnsafe(bytes);
  let at = 0;
  for (const frame of frames) {
    batch.writeUInt32BE(frame.length, at);
    batch.set(frame, at + LENGTH_BYTES);
    at += LENGTH_BYTES + frame.length;
  }
  return batch;
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
