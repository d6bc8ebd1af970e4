/** Answers a `show_session`: type byte 5, then the number of the question (4 bytes, big-endian), then the session as text, as libs/timeline writes
 *  it; no text = the node has no session of that device. */

export const SHOWN_FRAME = 5;

const HEAD_BYTES = 5;

export interface ShownSession {
  readonly ask: number;
  readonly text: string;
}

export function encodeShownFrame({ ask, text }: ShownSession): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + Buffer.byteLength(text));
  bytes[0] = SHOWN_FRAME;
  bytes.writeUInt32BE(ask, 1);
  bytes.write(text, HEAD_BYTES);
  return bytes;
}

/** Answers undefined for anything that is not such a frame of this version. */
export function decodeShownFrame(bytes: Buffer): ShownSession | undefined {
  if (bytes[0] !== SHOWN_FRAME || bytes.length < HEAD_BYTES) return undefined;
  return { ask: bytes.readUInt32BE(1), text: bytes.toString('utf8', HEAD_BYTES) };
}
