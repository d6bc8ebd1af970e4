/** Seals secrets of devices and webhooks for storage: AES-256-GCM under a master key that never enters the store. What was sealed for one owner does
 *  not open for another, because its name is authenticated along. Two master keys can be held: new seals use the current one, old seals open with either,
 *  so a rotation needs no downtime. A seal that does not open throws `internal` and says which key is missing; no secret is ever in a message.
 *
 *  offset  size  field
 *       0     1  version = 1
 *       1     1  key id: first byte of a hash of the master key
 *       2    12  iv, random
 *      14    16  tag
 *      30     …  ciphertext */

import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';

export interface MasterKeys {
  /** 32 bytes. */
  readonly current: Uint8Array;
  /** 32 bytes; the key before the last rotation. */
  readonly previous?: Uint8Array | undefined;
}

/** No DeviceCode holds a slash, so the two kinds never meet. */
export type SecretOwner = DeviceCode | `webhook/${string}`;

export interface SecretVault {
  seal(owner: SecretOwner, secret: string): Uint8Array;
  /** Takes what `seal` made, under the current or the previous master key. */
  open(owner: SecretOwner, sealed: Uint8Array): string;
}

interface MasterKey {
  readonly id: number;
  readonly bytes: Buffer;
}

const CIPHER = 'aes-256-gcm';
const VERSION = 1;
const KEY_BYTES = 32;
const IV_BYTES = 12;
const TAG_BYTES = 16;
const HEAD_BYTES = 2 + IV_BYTES + TAG_BYTES;

export function createSecretVault(keys: MasterKeys): SecretVault {
  const current = masterKey('current', keys.current);
  const known = keys.previous === undefined ? [current] : [current, masterKey('previous', keys.previous)];
  return {
    seal(owner, secret) {
      const head = Buffer.from([VERSION, current.id]);
      const iv = randomBytes(IV_BYTES);
      const cipher = createCipheriv(CIPHER, current.bytes, iv, { authTagLength: TAG_BYTES }).setAAD(bound(head, owner));
      const ciphertext = Buffer.concat([cipher.update(secret, 'utf8'), cipher.final()]);
      return Buffer.concat([head, iv, cipher.getAuthTag(), ciphertext]);
    },
    open(owner, sealed) {
      const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
      if (bytes.length < HEAD_BYTES || bytes[0] !== VERSION) {
        throw failure(owner, `it is no seal of version ${VERSION}`);
      }
      const id = bytes[1];
      // Two keys share an id once in 256 rotations, so each that fits is tried.
      const fitting = known.filter((key) => key.id === id);
      if (fitting.length === 0) {
        const ids = known.map((key) => key.id).join(', ');
        throw failure(
          owner,
          `it was sealed under master key ${id}, configured are ${ids}; configure that key as the previous one`,
        );
      }
      let cause: unknown;
      for (const key of fitting) {
        try {
          return decrypt(key, owner, bytes);
        } catch (error) {
          cause = error;
        }
      }
      throw failure(owner, 'it was changed, belongs to another owner, or was sealed under another master key', cause);
    },
  };
}

function decrypt(key: MasterKey, owner: SecretOwner, bytes: Buffer): string {
  const iv = bytes.subarray(2, 2 + IV_BYTES);
  const decipher = createDecipheriv(CIPHER, key.bytes, iv, { authTagLength: TAG_BYTES })
    .setAAD(bound(bytes.subarray(0, 2), owner))
    .setAuthTag(bytes.subarray(2 + IV_BYTES, HEAD_BYTES));
  return Buffer.concat([decipher.update(bytes.subarray(HEAD_BYTES)), decipher.final()]).toString('utf8');
}

function bound(head: Uint8Array, owner: SecretOwner): Buffer {
  return Buffer.concat([head, Buffer.from(owner)]);
}

function masterKey(name: string, bytes: Uint8Array): MasterKey {
  if (bytes.length !== KEY_BYTES) {
    throw new BrokerError('internal', `the ${name} master key has ${bytes.length} bytes; ${KEY_BYTES} are needed`);
  }
  const id = createHash('sha256').update('lapi-broker master key id').update(bytes).digest()[0] ?? 0;
  return { id, bytes: Buffer.from(bytes) };
}

function failure(owner: SecretOwner, why: string, cause?: unknown): BrokerError {
  return new BrokerError('internal', `the secret of ${owner} does not open: ${why}`, { cause });
}
