/** The device's own signature code against the vectors of protocol 3.4, written out here a second time on purpose. */

import { expect, test } from 'vitest';
import { deriveSecret, type Identity, registerQuery, signatureText, signRegistration } from './signature.ts';

const vectors: readonly (readonly [name: string, secret: string, identity: Identity, nonce: string, sign: string])[] = [
  [
    'A',
    '123456',
    { vendor: 'Uniview', deviceType: 'NVR', code: '210235TEST0000000001', algorithm: 'HMAC-SHA256' },
    '1234567890',
    'zBeS2WxUhYZkmtf99a86uWPZhWn88ZOb5rLBMGSA92k=',
  ],
  [
    'B',
    '123456',
    { vendor: 'Uniview', deviceType: 'IPC', code: '210235TEST0000000002', algorithm: 'HmacSHA256' },
    'A1b2C3d4E5f60018',
    'W/WGyztdXsn7q+ocYH15sNWl+JRaZfbEzrkQgBX1boE=',
  ],
  [
    'C',
    's3cr3t-密钥-ü',
    { vendor: '宇视', deviceType: '雷视一体机', code: '210235TEST0000000003', algorithm: 'HMAC-SHA256' },
    '0000000000000042',
    '6q+ggbtzm33vGHE3vC1Pd3+jA8dtO65nKGBXSWqlFOM=',
  ],
  [
    'D',
    'correct horse battery staple 2024',
    { vendor: 'UNV', deviceType: 'IPC', code: '210235TEST0000000004', algorithm: '' },
    '837465920174',
    'D4P/tymbfFTPqHnB+KyVPqyd422Pt+J3ZX5WQca246A=',
  ],
  [
    'D′',
    'correct horse battery staple 2024',
    { vendor: 'UNV', deviceType: 'IPC', code: '210235TEST0000000004', algorithm: undefined },
    '837465920174',
    'h2Tclow3bBBvBJjK4cBOzhCrOTf7rk0wYMGv1kEl6PY=',
  ],
  [
    'E',
    '123456',
    { vendor: 'Uniview', deviceType: 'NVR', code: '210235TEST0000000001', algorithm: 'SHA256' },
    '1234567890',
    'Anyhec15/ijsyRAFlhIgnaVqkD4n0opQBbmZKrgLYG0=',
  ],
  [
    'F',
    'k9!Zr7_pQ2wX4vLm',
    { vendor: 'Uniview', deviceType: 'NVR', code: '210235TEST0000000001', algorithm: 'HMAC-SHA256' },
    '28gQiAb3Z6PJq9Jm',
    'UtUw7ZZSBf2QEXJiGCKqNzE1Hw/0koM0dGECxoraE6Y=',
  ],
  [
    'G',
    'k9!Zr7_pQ2wX4vLm',
    {
      vendor: Buffer.from('d3eecad3', 'hex'),
      deviceType: 'IPC',
      code: '210235TEST0000000005',
      algorithm: 'HMAC-SHA256',
    },
    '28gQiAb3Z6PJq9Jm',
    'NcMX6hZgIL6b5E1URsiQPHgmsYCQSdR1vIxGVzMgTRk=',
  ],
];

test.each(vectors)('vector %s is reproduced (protocol 3.4)', (_name, secret, identity, nonce, sign) => {
  expect(signRegistration(secret, identity, nonce)).toBe(sign);
});

test('the signed text joins its parts with a slash and nothing else (protocol 3.1)', () => {
  const identity = { vendor: 'Uniview', deviceType: 'NVR', code: 'C1', algorithm: 'HMAC-SHA256' };
  expect(signatureText(identity, 'N1').toString()).toBe('Uniview/NVR/C1/HMAC-SHA256/N1');
});

test('the query of step 2 is the one of protocol 2.3', () => {
  const identity = { vendor: 'Uniview', deviceType: 'NVR', code: '210235TEST0000000001', algorithm: 'HMAC-SHA256' };
  const proof = {
    nonce: '28gQiAb3Z6PJq9Jm',
    cnonce: 'zY9xW8vU7tS6rQ5p',
    sign: 'UtUw7ZZSBf2QEXJiGCKqNzE1Hw/0koM0dGECxoraE6Y=',
  };
  expect(registerQuery(identity, proof, 'percent')).toBe(
    'Vendor=Uniview&DeviceType=NVR&DeviceCode=210235TEST0000000001&Algorithm=HMAC-SHA256&Nonce=28gQiAb3Z6PJq9Jm' +
      '&Cnonce=zY9xW8vU7tS6rQ5p&Sign=UtUw7ZZSBf2QEXJiGCKqNzE1Hw%2F0koM0dGECxoraE6Y%3D',
  );
  expect(registerQuery(identity, proof, 'raw')).toContain('&Sign=UtUw7ZZSBf2QEXJiGCKqNzE1Hw/0koM0dGECxoraE6Y=');
});

test('bytes that are not UTF-8 are percent-encoded as they are (vector G)', () => {
  const identity = { vendor: Buffer.from('d3eecad3', 'hex'), deviceType: 'IPC', code: 'C', algorithm: undefined };
  expect(registerQuery(identity, { nonce: 'n', cnonce: 'c', sign: 's' }, 'percent')).toMatch(
    /^Vendor=%D3%EE%CA%D3&DeviceType=IPC&/,
  );
});

test('a derived secret is base64url(HMAC-SHA256(seed, code)) and differs per device', () => {
  expect(deriveSecret('lapi-fleet', '210235SIMN0000000001')).toMatch(/^[A-Za-z0-9_-]{43}$/);
  expect(deriveSecret('seed', 'a')).not.toBe(deriveSecret('seed', 'b'));
  expect(deriveSecret('seed', 'a')).not.toBe(deriveSecret('other', 'a'));
});
