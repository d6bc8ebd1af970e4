/** Signs what a webhook sends, as the Standard Webhooks specification says: `v1,` and the base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`, one
 *  per active secret, with blanks between. Two are active for a while after a rotation, so that receivers may change theirs in that time. Pure. */

import { createHmac, randomBytes } from 'node:crypto';

const PREFIX = 'whsec_';
const KEY_BYTES = { min: 24, max: 64, made: 32 } as const;
const SECRET = /^whsec_[A-Za-z0-9+/]+={0,2}$/;

export function newSigningSecret(): string {
  return PREFIX + randomBytes(KEY_BYTES.made).toString('base64');
}

export const SIGNING_SECRET_RULE = `must be whsec_ and the base64 of ${KEY_BYTES.min}–${KEY_BYTES.max} random bytes`;

export function isSigningSecret(text: string): boolean {
  if (!SECRET.test(text)) return false;
  const key = keyOf(text);
  // What does not come back as it went in would be another key for a receiver that decodes more strictly.
  return key.length >= KEY_BYTES.min && key.length <= KEY_BYTES.max && PREFIX + key.toString('base64') === text;
}

/** `timestampS`: Unix seconds. */
export function sign(secrets: readonly string[], id: string, timestampS: number, body: Uint8Array): string {
  const head = `${id}.${timestampS}.`;
  return secrets
    .map((secret) => `v1,${createHmac('sha256', keyOf(secret)).update(head).update(body).digest('base64')}`)
    .join(' ');
}

function keyOf(secret: string): Buffer {
  return Buffer.from(secret.slice(PREFIX.length), 'base64');
}
