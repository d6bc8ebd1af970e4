import { randomBytes } from 'node:crypto';
import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createSecretVault } from './secret-vault.ts';

const code = '210235TEST0000000001' as DeviceCode;
const key = (): Uint8Array => randomBytes(32);

/** Keys whose ids differ, so that the tests do not depend on chance. */
function twoKeys(): [Uint8Array, Uint8Array] {
  const first = key();
  for (;;) {
    const second = key();
    const ids = [first, second].map((current) => createSecretVault({ current }).seal(code, 'x')[1]);
    if (ids[0] !== ids[1]) return [first, second];
  }
}

test('what was sealed opens again, whatever text it is', () => {
  const vault = createSecretVault({ current: key() });
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (secret) => {
      expect(vault.open(code, vault.seal(code, secret))).toBe(Buffer.from(secret).toString());
    }),
  );
});

test('the same secret never seals to the same bytes, and a seal holds nothing of it', () => {
  const vault = createSecretVault({ current: key() });
  const [first, second] = [vault.seal(code, 'k9!Zr7_pQ2wX4vLm'), vault.seal(code, 'k9!Zr7_pQ2wX4vLm')];
  expect(Buffer.from(first).equals(Buffer.from(second))).toBe(false);
  expect(Buffer.from(first).includes('k9!Z')).toBe(false);
});

test('the layout is version, key id, 12 bytes of iv, 16 of tag, ciphertext', () => {
  const sealed = createSecretVault({ current: key() }).seal(code, 'k9!Zr7_pQ2wX4vLm');
  expect(sealed[0]).toBe(1);
  expect(sealed).toHaveLength(2 + 12 + 16 + 16);
});

test('a seal of one device does not open for another', () => {
  const vault = createSecretVault({ current: key() });
  const sealed = vault.seal(code, 'k9!Zr7_pQ2wX4vLm');
  expect(() => vault.open('210235TEST0000000002' as DeviceCode, sealed)).toThrow(/belongs to another owner/);
});

test('one changed bit anywhere keeps a seal shut', () => {
  const vault = createSecretVault({ current: key() });
  const sealed = vault.seal(code, 'k9!Zr7_pQ2wX4vLm');
  for (let i = 0; i < sealed.length * 8; i++) {
    const changed = Uint8Array.from(sealed);
    changed[i >> 3] = (changed[i >> 3] ?? 0) ^ (1 << (i & 7));
    expect(() => vault.open(code, changed)).toThrow(BrokerError);
  }
  for (let length = 0; length < sealed.length; length++) {
    expect(() => vault.open(code, sealed.subarray(0, length))).toThrow(BrokerError);
  }
});

test('after a rotation old seals open with the previous key, and new ones are sealed with the current', () => {
  const [old, current] = twoKeys();
  const sealed = createSecretVault({ current: old }).seal(code, 'old secret');
  const vault = createSecretVault({ current, previous: old });
  expect(vault.open(code, sealed)).toBe('old secret');
  expect(createSecretVault({ current }).open(code, vault.seal(code, 'new secret'))).toBe('new secret');
});

test('a seal of a key that is not configured says so, without a word of the secret', () => {
  const [old, current] = twoKeys();
  const sealed = createSecretVault({ current: old }).seal(code, 'k9!Zr7_pQ2wX4vLm');
  const open = (): string => createSecretVault({ current }).open(code, sealed);
  expect(open).toThrow(/210235TEST0000000001 does not open: it was sealed under master key \d+, configured are \d+/);
  expect(open).toThrow(expect.objectContaining({ code: 'internal' }) as Error);
});

test('two keys with the same id are both tried', () => {
  const old = key();
  const id = createSecretVault({ current: old }).seal(code, 'x')[1];
  let twin = key();
  while (createSecretVault({ current: twin }).seal(code, 'x')[1] !== id) twin = key();
  const sealed = createSecretVault({ current: old }).seal(code, 'old secret');
  expect(createSecretVault({ current: twin, previous: old }).open(code, sealed)).toBe('old secret');
});

test('a master key of the wrong length is refused', () => {
  expect(() => createSecretVault({ current: randomBytes(16) })).toThrow(/current master key has 16 bytes; 32/);
  expect(() => createSecretVault({ current: key(), previous: randomBytes(33) })).toThrow(
    /previous master key has 33 bytes/,
  );
});

test('wiping the caller’s key does not change the vault', () => {
  const current = Buffer.from(key());
  const vault = createSecretVault({ current });
  const sealed = vault.seal(code, 'k9!Zr7_pQ2wX4vLm');
  current.fill(0);
  expect(vault.open(code, sealed)).toBe('k9!Zr7_pQ2wX4vLm');
});
