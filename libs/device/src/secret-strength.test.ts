import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { checkSecretStrength } from './secret-strength.ts';

test.each([
  '',
  '123456',
  'k9!Zr7_pQ2w',
  '123456789012',
  '1234567890123456',
  '987654321098',
  'aaaaaaaaaaaa',
  'abcdefghijklmnop',
  '123456123456',
  'k9!Zr7k9!Zr7',
  '112233445566',
  'password1234',
  'P@ssw0rd12345',
  'admin1234567',
  'admin_123456',
  'Uniview12345',
  'qwertyuiop123',
  'abababababab',
])('%j is refused (protocol G8)', (secret) => {
  expect(checkSecretStrength(secret)).toMatch(/^the secret /);
});

test.each([
  'k9!Zr7_pQ2wX4vLm',
  'correct horse battery staple 2024',
  's3cr3t-密钥-ü-Zaun',
  'Tk3-uvR8-pLm2',
  '宇视雷视一体机密钥安全摄像头网络',
])('%j is accepted (protocol G8)', (secret) => {
  expect(checkSecretStrength(secret)).toBeUndefined();
});

test('random secrets pass, in hexadecimal and in base64', () => {
  for (let i = 0; i < 2000; i++) {
    const bytes = randomBytes(32);
    expect(checkSecretStrength(bytes.toString('hex'))).toBeUndefined();
    expect(checkSecretStrength(bytes.toString('base64url'))).toBeUndefined();
  }
});

test('a reason never holds the secret', () => {
  expect(checkSecretStrength('password1234')).not.toContain('password');
});
