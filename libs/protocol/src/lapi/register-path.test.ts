import { expect, test } from 'vitest';
import { isRegisterPath, REGISTER_PATH } from './register-path.ts';

test('Register in any letter case and with one trailing slash is Register (H1, L7)', () => {
  for (const path of [REGISTER_PATH, `${REGISTER_PATH}/`, REGISTER_PATH.toLowerCase(), REGISTER_PATH.toUpperCase()]) {
    expect(isRegisterPath(path)).toBe(true);
  }
});

test('nothing else is, however close (H1, S1, L7)', () => {
  const others = [
    '/',
    '/ws',
    '',
    `${REGISTER_PATH}2`,
    `${REGISTER_PATH}//`,
    `/${REGISTER_PATH}`,
    `${REGISTER_PATH}\n`,
    '/LAPI/V1.0/System/UpServer/%52egister',
    '/LAPI/V1.0/System/UpServer//Register',
    '/LAPI/V1x0/System/UpServer/Register',
    '/LAPI/V1.0/ſystem/UpServer/Register',
    `/x${REGISTER_PATH}`,
  ];
  for (const path of others) expect(isRegisterPath(path)).toBe(false);
});
