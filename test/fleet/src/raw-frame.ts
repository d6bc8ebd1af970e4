/** Single WebSocket frames as bytes, for the faults a proper client library refuses to commit: unmasked frames, RSV bits, bad UTF-8.
 *  Pure. Everything that follows the rules goes through `ws`, not through here. */

import { randomBytes } from 'node:crypto';

export interface RawFrame {
  /** 1 text, 2 binary. */
  readonly opcode: number;
  readonly payload: Uint8Array;
  /** Default true; false is what radar firmware of 2022 does with its answers (E4). */
  readonly masked?: boolean;
  readonly rsv1?: boolean;
}

export function frameBytes(frame: RawFrame): Buffer {
  const { payload } = frame;
  const masked = frame.masked !== false;
  const head = Buffer.alloc(10);
  head[0] = 0x80 | (frame.rsv1 === true ? 0x40 : 0) | frame.opcode;
  const maskBit = masked ? 0x80 : 0;
  let headBytes = 2;
  if (payload.length < 126) {
    head[1] = maskBit | payload.length;
  } else if (payload.length < 65_536) {
    head[1] = maskBit | 126;
    head.writeUInt16BE(payload.length, 2);
    headBytes = 4;
  } else {
    head[1] = maskBit | 127;
    head.writeBigUInt64BE(BigInt(payload.length), 2);
    headBytes = 10;
  }
  if (!masked) return Buffer.concat([head.subarray(0, headBytes), payload]);
  const mask = randomBytes(4);
  const body = Buffer.from(payload);
  for (let index = 0; index < body.length; index += 1) {
    body[index] = (body[index] ?? 0) ^ (mask[index & 3] ?? 0);
  }
  return Buffer.concat([head.subarray(0, headBytes), mask, body]);
}
