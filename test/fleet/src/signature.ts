/** How a device signs its registration (protocol 3) and where a simulated device gets its secret from.
 *  Written from the device's side on purpose: it shares no code with the broker, so a mistake in one does not hide in the other. */

import { createHmac } from 'node:crypto';

/** What a device says about itself. Bytes are taken as they are (vector G); text is UTF-8. */
export interface Identity {
  readonly vendor: string | Uint8Array;
  readonly deviceType: string | Uint8Array;
  readonly code: string;
  /** `''` is an empty segment (vector D), undefined leaves the segment and the parameter out (vector D′). */
  readonly algorithm: string | undefined;
}

/** `percent` is clean; `raw` leaves `+`, `/` and `=` unescaped, as some firmware does (G4). */
export type SignEncoding = 'percent' | 'raw';

const SLASH = Buffer.from('/');

export function signatureText(identity: Identity, nonce: string): Buffer {
  const segments = [identity.vendor, identity.deviceType, identity.code];
  if (identity.algorithm !== undefined) segments.push(identity.algorithm);
  segments.push(nonce);
  const parts = segments.flatMap((segment) => [SLASH, bytesOf(segment)]);
  return Buffer.concat(parts.slice(1));
}

/** Padded standard base64 (protocol 3.1). */
export function signRegistration(secret: string, identity: Identity, nonce: string): string {
  return createHmac('sha256', secret).update(signatureText(identity, nonce)).digest('base64');
}

/** The query of step 2, in the order devices use. */
export function registerQuery(
  identity: Identity,
  proof: { readonly nonce: string; readonly cnonce: string; readonly sign: string },
  encoding: SignEncoding,
): string {
  const algorithm = identity.algorithm === undefined ? '' : `&Algorithm=${percentEncode(identity.algorithm)}`;
  const sign = encoding === 'raw' ? proof.sign : percentEncode(proof.sign);
  return (
    `Vendor=${percentEncode(identity.vendor)}&DeviceType=${percentEncode(identity.deviceType)}` +
    `&DeviceCode=${percentEncode(identity.code)}${algorithm}` +
    `&Nonce=${percentEncode(proof.nonce)}&Cnonce=${percentEncode(proof.cnonce)}&Sign=${sign}`
  );
}

/** Each device its own secret, known to whoever knows the seed: base64url(HMAC-SHA256(seed, code)), 43 characters. */
export function deriveSecret(seed: string, code: string): string {
  return createHmac('sha256', seed).update(code).digest('base64url');
}

function percentEncode(value: string | Uint8Array): string {
  let encoded = '';
  for (const byte of bytesOf(value)) {
    const character = String.fromCharCode(byte);
    encoded += /[A-Za-z0-9._~-]/.test(character) ? character : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  return encoded;
}

function bytesOf(value: string | Uint8Array): Buffer {
  return typeof value === 'string' ? Buffer.from(value) : Buffer.from(value);
}
