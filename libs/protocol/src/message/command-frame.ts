/** The frame that carries one direct command from a command process to the node that owns the device.
 *  A fixed binary head plus the LAPI body as it came: the body is never parsed or encoded again on the way.
 *
 *  offset  size  field
 *       0     1  frame type = 1
 *       1     1  method (index in LAPI_METHODS)
 *       2     8  correlation id, unique within the sending instance
 *      10     8  epoch of the looked-up ownership
 *      18     8  deadline, ms of Redis time (f64): not written and not awaited after it
 *      26     1  length of the instance id
 *      27     1  length of the device code
 *      28     2  length of the url
 *      30     …  instance id, device code, url (UTF-8), body to the end (JSON of `Data`, or empty) */

import type { DeviceCode, Epoch, InstanceId } from '../id.ts';

export const LAPI_METHODS = ['GET', 'POST', 'PUT', 'DELETE'] as const;
export type LapiMethod = (typeof LAPI_METHODS)[number];

export function isLapiMethod(text: string): text is LapiMethod {
  return (LAPI_METHODS as readonly string[]).includes(text);
}

export interface CommandFrame {
  readonly id: number;
  /** Where the answer goes: the reply channel of this instance. */
  readonly replyTo: InstanceId;
  readonly code: DeviceCode;
  readonly epoch: Epoch;
  readonly deadlineMs: number;
  readonly method: LapiMethod;
  /** RequestURL with its query, `/LAPI/…`, at most 2048 bytes. */
  readonly url: string;
  /** JSON text of `Data`; empty = `{}` is sent (protocol C1). */
  readonly body: Uint8Array;
}

export const COMMAND_FRAME = 1;
const HEAD = 30;
const NO_BODY = Buffer.alloc(0);

export function encodeCommandFrame(frame: CommandFrame): Buffer {
  const urlBytes = Buffer.byteLength(frame.url);
  const { replyTo, code, body } = frame;
  const bytes = Buffer.allocUnsafe(HEAD + replyTo.length + code.length + urlBytes + body.length);
  bytes[0] = COMMAND_FRAME;
  bytes[1] = LAPI_METHODS.indexOf(frame.method);
  bytes.writeDoubleBE(frame.id, 2);
  bytes.writeDoubleBE(frame.epoch, 10);
  bytes.writeDoubleBE(frame.deadlineMs, 18);
  bytes[26] = replyTo.length;
  bytes[27] = code.length;
  bytes.writeUInt16BE(urlBytes, 28);
  let at = HEAD;
  at += bytes.write(replyTo, at, 'latin1');
  at += bytes.write(code, at, 'latin1');
  at += bytes.write(frame.url, at);
  bytes.set(body, at);
  return bytes;
}

/** The body is a view into `bytes`, not a copy. Answers undefined for a frame that is cut short or of another version. */
export function decodeCommandFrame(bytes: Buffer): CommandFrame | undefined {
  if (bytes.length < HEAD || bytes[0] !== COMMAND_FRAME) return undefined;
  const method = LAPI_METHODS[bytes[1] ?? -1];
  const replyEnd = HEAD + (bytes[26] ?? 0);
  const codeEnd = replyEnd + (bytes[27] ?? 0);
  const urlEnd = codeEnd + bytes.readUInt16BE(28);
  if (method === undefined || urlEnd > bytes.length) return undefined;
  return {
    id: bytes.readDoubleBE(2),
    replyTo: bytes.toString('latin1', HEAD, replyEnd) as InstanceId,
    code: bytes.toString('latin1', replyEnd, codeEnd) as DeviceCode,
    epoch: bytes.readDoubleBE(10) as Epoch,
    deadlineMs: bytes.readDoubleBE(18),
    method,
    url: bytes.toString('utf8', codeEnd, urlEnd),
    // Most commands have none, and a view costs as much as the rest of this.
    body: urlEnd === bytes.length ? NO_BODY : bytes.subarray(urlEnd),
  };
}
