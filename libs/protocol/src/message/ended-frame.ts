/** Tells the process that waits for a recorded command that it has ended: type byte 4, then the CommandId. A hint; the record is the truth. */

import { type CommandId, isCommandId } from '../id.ts';

export const ENDED_FRAME = 4;

export function encodeEndedFrame(id: CommandId): Buffer {
  const bytes = Buffer.allocUnsafe(1 + id.length);
  bytes[0] = ENDED_FRAME;
  bytes.write(id, 1, 'latin1');
  return bytes;
}

/** Answers undefined for anything that is not such a frame of this version. */
export function decodeEndedFrame(bytes: Buffer): CommandId | undefined {
  if (bytes[0] !== ENDED_FRAME) return undefined;
  const id = bytes.toString('latin1', 1);
  return isCommandId(id) ? id : undefined;
}
