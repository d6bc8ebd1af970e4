/** The cursor of a listing: where the next page begins. Opaque to clients: base64url of a version byte and the last code. Pure. */

import { type DeviceCode, isDeviceCode } from '@lapi-broker/protocol';

const VERSION = '1';

export function encodeListCursor(after: DeviceCode): string {
  return Buffer.from(VERSION + after).toString('base64url');
}

/** Undefined for anything that this file did not make. */
export function decodeListCursor(text: string): DeviceCode | undefined {
  if (text.length > 100 || !/^[A-Za-z0-9_-]+$/.test(text)) return undefined;
  const plain = Buffer.from(text, 'base64url').toString('latin1');
  const code = plain.slice(1);
  // Base64 has several spellings of one value; only ours is a cursor.
  return plain[0] === VERSION && isDeviceCode(code) && encodeListCursor(code) === text ? code : undefined;
}
