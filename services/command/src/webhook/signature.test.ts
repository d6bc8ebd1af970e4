/** Signatures of webhooks, judged by the library of the Standard Webhooks project. */

import { randomBytes } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { expect, test } from 'vitest';
import { headersOf, writeTest } from './message.ts';
import { isSigningSecret, newSigningSecret } from './signature.ts';

const nowMs = Date.now();
const message = writeTest('0mk5x3v9qx2m4q8w1z5t', 'once', nowMs);

function verifies(secret: string, headers: Readonly<Record<string, string>>, body: string): boolean {
  try {
    new Webhook(secret).verify(body, { ...headers });
    return true;
  } catch {
    return false;
  }
}

test('whoever has the secret can verify a message, and nobody can change it', () => {
  const secret = newSigningSecret();
  const headers = headersOf(message, [secret], nowMs, 'test');
  const body = message.body.toString();
  expect(verifies(secret, headers, body)).toBe(true);
  expect(verifies(newSigningSecret(), headers, body)).toBe(false);
  expect(verifies(secret, headers, body.replace('test', 'TEST'))).toBe(false);
  expect(verifies(secret, { ...headers, 'webhook-id': 'msg_other' }, body)).toBe(false);
  const later = String(Number(headers['webhook-timestamp']) + 1);
  expect(verifies(secret, { ...headers, 'webhook-timestamp': later }, body)).toBe(false);
});

test('a replayed message is too old for a receiver that looks at its time', () => {
  const secret = newSigningSecret();
  expect(verifies(secret, headersOf(message, [secret], nowMs - 600_000, 'test'), message.body.toString())).toBe(false);
});

test('while two secrets are active, either verifies', () => {
  const [before, now] = [newSigningSecret(), newSigningSecret()];
  const headers = headersOf(message, [now, before], nowMs, 'test');
  expect(verifies(before, headers, message.body.toString())).toBe(true);
  expect(verifies(now, headers, message.body.toString())).toBe(true);
});

test('a secret that is made is one that is accepted', () => {
  expect(isSigningSecret(newSigningSecret())).toBe(true);
  expect(newSigningSecret()).not.toBe(newSigningSecret());
});

test.each([
  ['too short', `whsec_${randomBytes(23).toString('base64')}`],
  ['too long', `whsec_${randomBytes(65).toString('base64')}`],
  ['without its prefix', randomBytes(32).toString('base64')],
  ['not base64', `whsec_${'!'.repeat(44)}`],
  ['base64url', `whsec_${Buffer.alloc(33, 0xff).toString('base64url')}`],
  ['without its padding', `whsec_${randomBytes(32).toString('base64').replaceAll('=', '')}`],
  ['empty', 'whsec_'],
])('a secret that is %s is refused', (_, secret) => {
  expect(isSigningSecret(secret)).toBe(false);
});
