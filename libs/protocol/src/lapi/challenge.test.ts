import { expect, test } from 'vitest';
import { challengeBody } from './challenge.ts';

const NONCE = '28gQiAb3Z6PJq9Jm';

test('the union body has the exact bytes of 2.2 (H3, L1)', () => {
  const body = challengeBody('union', NONCE);
  expect(body).toBe(
    '{"Nonce":"28gQiAb3Z6PJq9Jm","Response":{"ResponseURL":"/LAPI/V1.0/System/UpServer/Register","ResponseString":"Not Authorized","StatusCode":"401","Data":{"Nonce":"28gQiAb3Z6PJq9Jm"}}}',
  );
  expect(Buffer.byteLength(body)).toBe(182);
});

test('bare and wrapped are the two halves of union (H3)', () => {
  const bare = JSON.parse(challengeBody('bare', NONCE)) as object;
  const wrapped = JSON.parse(challengeBody('wrapped', NONCE)) as object;
  expect(bare).toEqual({ Nonce: NONCE });
  expect({ ...bare, ...wrapped }).toEqual(JSON.parse(challengeBody('union', NONCE)));
});
