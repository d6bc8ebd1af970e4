/** The frame that carries the outcome of one direct command back to the process that asked.
 *
 *  offset  size  field
 *       0     1  frame type = 2
 *       1     1  outcome (index in REPLY_OUTCOMES)
 *       2     1  flags: 1 = written to the device socket, 2 = success by protocol E17, 4 = ResponseCode present
 *       3     8  correlation id of the command
 *      11     4  ResponseCode (i32), 0 when absent
 *      15     …  the device's answer as one JSON object, empty unless the outcome is `answered` */

/** `answered`: the device replied. All others are refusals or losses, named as the public error codes; `stale_owner` stays among ourselves:
 *  the asking process looks the owner up again, and tells the platform what it finds. */
export const REPLY_OUTCOMES = [
  'answered',
  'device_offline',
  'stale_owner',
  'device_busy',
  'node_draining',
  'timeout_not_sent',
  'timeout',
  'outcome_unknown',
  'request_too_large',
  'broker_unavailable',
] as const;
export type ReplyOutcome = (typeof REPLY_OUTCOMES)[number];

export interface ReplyFrame {
  readonly id: number;
  readonly outcome: ReplyOutcome;
  /** Did bytes of this command reach the device's socket? */
  readonly written: boolean;
  readonly success: boolean;
  readonly responseCode: number | undefined;
  readonly body: Uint8Array;
}

export const REPLY_FRAME = 2;
const HEAD = 15;

/** Everything before the body. */
export const REPLY_HEAD_BYTES = HEAD;

export function writeReplyHead(frame: Omit<ReplyFrame, 'body'>, bytes: Buffer, at: number): void {
  bytes[at] = REPLY_FRAME;
  bytes[at + 1] = REPLY_OUTCOMES.indexOf(frame.outcome);
  bytes[at + 2] = (frame.written ? 1 : 0) | (frame.success ? 2 : 0) | (frame.responseCode === undefined ? 0 : 4);
  bytes.writeDoubleBE(frame.id, at + 3);
  bytes.writeInt32BE(frame.responseCode ?? 0, at + 11);
}

export function encodeReplyFrame(frame: ReplyFrame): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD + frame.body.length);
  writeReplyHead(frame, bytes, 0);
  bytes.set(frame.body, HEAD);
  return bytes;
}

/** The body is a view into `bytes`, not a copy. Answers undefined for a frame that is cut short or of another version. */
export function decodeReplyFrame(bytes: Buffer): ReplyFrame | undefined {
  if (bytes.length < HEAD || bytes[0] !== REPLY_FRAME) return undefined;
  const outcome = REPLY_OUTCOMES[bytes[1] ?? -1];
  const flags = bytes[2] ?? 0;
  if (outcome === undefined) return undefined;
  return {
    id: bytes.readDoubleBE(3),
    outcome,
    written: (flags & 1) !== 0,
    success: (flags & 2) !== 0,
    responseCode: (flags & 4) !== 0 ? bytes.readInt32BE(11) : undefined,
    body: bytes.subarray(HEAD),
  };
}
