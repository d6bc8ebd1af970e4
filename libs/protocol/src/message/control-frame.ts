/** Rare messages to one node about one device: JSON behind a type byte. Each is a hint; the registry row is the truth. */

import { type DeviceCode, type Epoch, type InstanceId, isDeviceCode } from '../id.ts';

export const CONTROL_FRAME = 3;

export type ControlMessage =
  /** The device was claimed elsewhere at `epoch`: sessions with a lower epoch close (protocol D3). */
  | { readonly type: 'superseded'; readonly code: DeviceCode; readonly epoch: Epoch }
  /** An operator asks to end the session; the device may come back (1000, reason `disconnected`). */
  | { readonly type: 'disconnect'; readonly code: DeviceCode }
  /** Provisioning changed: read it again; close the session if the device is gone, disabled, or its secret revoked (1008). */
  | { readonly type: 'provisioning_changed'; readonly code: DeviceCode }
  /** A command waits in this lane of the device, or in any: look (design: a wake-up is a hint). */
  | { readonly type: 'lane_ready'; readonly code: DeviceCode; readonly lane?: 'normal' | 'urgent' }
  /** Somebody looks at the device: tell what its session is and what was said last, in a shown frame on the reply channel of this process. */
  | { readonly type: 'show_session'; readonly code: DeviceCode; readonly ask: number; readonly replyTo: InstanceId };

const TYPES: readonly string[] = ['superseded', 'disconnect', 'provisioning_changed', 'lane_ready', 'show_session'];

export function encodeControlFrame(message: ControlMessage): Buffer {
  const json = JSON.stringify(message);
  const bytes = Buffer.allocUnsafe(1 + Buffer.byteLength(json));
  bytes[0] = CONTROL_FRAME;
  bytes.write(json, 1);
  return bytes;
}

/** Answers undefined for anything that is not a control message of this version. */
export function decodeControlFrame(bytes: Buffer): ControlMessage | undefined {
  if (bytes[0] !== CONTROL_FRAME) return undefined;
  try {
    const value = JSON.parse(bytes.toString('utf8', 1)) as Record<
      'type' | 'code' | 'epoch' | 'lane' | 'ask' | 'replyTo',
      unknown
    >;
    if (typeof value.type !== 'string' || !TYPES.includes(value.type)) return undefined;
    if (typeof value.code !== 'string' || !isDeviceCode(value.code)) return undefined;
    if (value.type === 'superseded' && typeof value.epoch !== 'number') return undefined;
    if (value.type === 'show_session' && (typeof value.replyTo !== 'string' || !isAsk(value.ask))) return undefined;
    if (value.lane !== undefined && value.lane !== 'normal' && value.lane !== 'urgent') return undefined;
    return value as ControlMessage;
  } catch {
    return undefined; // Not JSON: a frame of another version, counted by the caller.
  }
}

function isAsk(value: unknown): boolean {
  return typeof value === 'number' && value === value >>> 0;
}
