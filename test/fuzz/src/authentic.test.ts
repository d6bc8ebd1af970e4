import { expect, test } from 'vitest';
import { authenticIn } from './authentic.ts';

const CODE = '210235TEST0000000001';
const NONCE = '28gQiAb3Z6PJq9Jm';
const SIGN = 'UtUw7ZZSBf2QEXJiGCKqNzE1Hw%2F0koM0dGECxoraE6Y%3D';
const known = {
  secretOf: (code: string) => (code === CODE ? 'k9!Zr7_pQ2wX4vLm' : undefined),
  wasGivenOut: (nonce: string) => nonce === NONCE,
};

function request(query: string, path = '/LAPI/V1.0/System/UpServer/Register'): Buffer {
  return Buffer.from(`GET ${path}?${query} HTTP/1.1\r\nHost: broker.example\r\n\r\n`);
}

const SOUND = `Vendor=Uniview&DeviceType=NVR&DeviceCode=${CODE}&Algorithm=HMAC-SHA256&Nonce=${NONCE}&Sign=${SIGN}`;

test('the second GET of protocol 2.3 is authentic, in every spelling of 3.3', () => {
  expect(authenticIn(request(SOUND), known)).toEqual({ code: CODE, nonce: NONCE });
  const raw = decodeURIComponent(SIGN);
  for (const sign of [raw, encodeURIComponent(SIGN), raw.replaceAll('/', '_').replaceAll('=', '')]) {
    expect(authenticIn(request(SOUND.replace(SIGN, sign)), known), sign).toBeDefined();
  }
  expect(authenticIn(Buffer.concat([request('x=y'), request(SOUND)]), known)).toBeDefined();
});

test.each([
  ['a bit of the Sign', SOUND.replace('UtUw', 'UtUx'), known],
  ['the maker', SOUND.replace('Uniview', 'Univiev'), known],
  ['the algorithm left out', SOUND.replace('&Algorithm=HMAC-SHA256', ''), known],
  ['a nonce that nobody gave out', SOUND, { ...known, wasGivenOut: () => false }],
  ['a device that is not known', SOUND, { ...known, secretOf: () => undefined }],
  ['another secret', SOUND, { ...known, secretOf: () => 'k9!Zr7_pQ2wX4vLn' }],
])('not authentic: %s', (_what, query, about) => {
  expect(authenticIn(request(query), about)).toBeUndefined();
});

test('not authentic: any other path', () => {
  for (const path of ['/', '/LAPI/V1.0/System/UpServer/Register2', '//LAPI/V1.0/System/UpServer/Register']) {
    expect(authenticIn(request(SOUND, path), known), path).toBeUndefined();
  }
});
