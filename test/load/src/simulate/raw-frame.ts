/** WebSocket frames as a device writes and reads them, byte by byte. Masked with the key 0, which is legal and saves the work; the server
 *  unmasks all the same. Pure. */

const TEXT = 0x81;
const MASK_BYTES = 4;

/** Head of a final, masked text frame. */
export function maskedHead(payloadBytes: number): Buffer {
  if (payloadBytes < 126) {
    const head = Buffer.alloc(2 + MASK_BYTES);
    head[0] = TEXT;
    head[1] = 0x80 | payloadBytes;
    return head;
  }
  if (payloadBytes < 65_536) {
    const head = Buffer.alloc(4 + MASK_BYTES);
    head[0] = TEXT;
    head[1] = 0x80 | 126;
    head.writeUInt16BE(payloadBytes, 2);
    return head;
  }
  const head = Buffer.alloc(10 + MASK_BYTES);
  head[0] = TEXT;
  head[1] = 0x80 | 127;
  head.writeUIntBE(payloadBytes, 4, 6);
  return head;
}

const EMPTY = Buffer.alloc(0);

/** Takes the frames of a server apart; keeps what has come in part. `onText` gets a view for the duration of the call. */
export class FrameReader {
  private rest: Buffer = EMPTY;
  private readonly onText: (payload: Buffer) => void;

  constructor(onText: (payload: Buffer) => void) {
    this.onText = onText;
  }

  /** False once the server has said that it closes. `bytes` may be changed by the caller afterwards. */
  read(bytes: Buffer): boolean {
    const all = this.rest.length === 0 ? bytes : Buffer.concat([this.rest, bytes]);
    let at = 0;
    while (all.length - at >= 2) {
      let length = (all[at + 1] as number) & 0x7f;
      let start = at + 2;
      if (length === 126) {
        if (all.length - at < 4) break;
        length = all.readUInt16BE(at + 2);
        start = at + 4;
      } else if (length === 127) {
        if (all.length - at < 10) break;
        length = all.readUIntBE(at + 4, 6);
        start = at + 10;
      }
      if (all.length < start + length) break;
      const opcode = (all[at] as number) & 0x0f;
      if (opcode === 8) return false;
      if (opcode === 1) this.onText(all.subarray(start, start + length));
      at = start + length;
    }
    this.rest = at === all.length ? EMPTY : Buffer.from(all.subarray(at));
    return true;
  }
}
