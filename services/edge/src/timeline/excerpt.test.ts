import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { EXCERPT_BYTES, excerptOf, shownUrl } from './excerpt.ts';

const CANARY = 'cAnArY7x';

describe('what people may see of a message', () => {
  test.each([
    ['{"DeviceName":"NVR 2","Channels":16,"Online":true,"List":[1,-2.5e3,null]}', undefined],
    ['{ "DeviceName" :\n "NVR 2" }', '{"DeviceName":"NVR 2"}'],
    ['{"DeviceName":"西门","Url":"/LAPI/V1.0/System/DeviceInfo"}', undefined],
  ])('ordinary JSON is shown, without its layout: %s', (text, shown) => {
    expect(excerptOf(text)).toBe(shown ?? text);
  });

  test.each([
    `{"Password":"${CANARY}"}`,
    `{"Password":"a\\"${CANARY}"}`,
    `{"Password" : {"Text":"${CANARY}","More":["${CANARY}"]},"Name":"x"}`,
    `{"LoginPass":"${CANARY}","LoginName":"${CANARY}","PIN":"${CANARY}","UserPwd":"${CANARY}"}`,
    `{"Data":"{\\"Password\\":\\"${CANARY}\\"}"}`,
    `{"Data":"{\\"Password\\":\\"a\\\\\\"${CANARY}\\"}"}`,
    `{"Sign":"${CANARY}","Nonce":"${CANARY}","Cnonce":"${CANARY}","Resign":"${CANARY}"}`,
    `{"Picture":"${CANARY}${'A'.repeat(400)}"}`,
    `{"Picture":"${'\\/9j'.repeat(10)}${CANARY}"}`,
    `{"Key":"${CANARY}AAAAAAAAAAAAAAAAAAAA"}`,
    `{"Url":"rtsp://admin:${CANARY}@192.0.2.1/1"}`,
    `{"Pass\\u0077ord":"${CANARY}"}`,
    `Password=${CANARY}`,
    `Authorization: Bearer ${CANARY}${CANARY}`,
    `{Password:${CANARY}}`,
    `{'Password':'${CANARY}'}`,
    `{"UserPsw":"${CANARY}","PSK":"${CANARY}","WifiKey":"${CANARY}","PassCode":"${CANARY}","PinCode":"${CANARY}"}`,
    `{"AuthCode":"${CANARY}","Community":"${CANARY}","Pass Word":"${CANARY}","密码":"${CANARY}"}`,
    `"Password"="${CANARY}"`,
    `{"Password";"${CANARY}"}`,
    `{"Password"\u0000:"${CANARY}"}`,
    `{"Password":}"${CANARY}"}`,
    `["Password","${CANARY}"]`,
    `{"Name":"Password","Value":"${CANARY}"}`,
    `{"Value":"${CANARY}","Name":"Password"}`,
    `{"Url":"rtsp://admin:a/${CANARY}@192.0.2.1/1"}`,
    `{"Url":"rtsp://admin:a@${CANARY}@192.0.2.1/1"}`,
    `{"Url":"http://192.0.2.1/x?auth=${CANARY}"}`,
    `{"Picture":"data:image/jpeg;base64,${CANARY}"}`,
  ])('what is, or may be, secret or a picture is not: %s', (text) => {
    for (let end = 0; end <= text.length; end++) expect(excerptOf(text.slice(0, end))).not.toContain('AnArY');
  });

  test.each(['{Password:1234567}', "{'Pin':1234567}", 'Password 1234567', '<Pin> 1234567 </Pin>', '"PIN" 1234567'])(
    'no number of what is no JSON: %s',
    (text) => {
      expect(excerptOf(text)).not.toContain('1234567');
    },
  );

  test('no member under a telling name shows anything of its value, however the message is cut', () => {
    const secret = fc.oneof(
      fc
        .string({ unit: fc.constantFrom('"', '\\', '}', ',', ':', ' ', 'é', 'x') })
        .map((noise) => `${noise}${CANARY}${noise}`),
      fc.constant({ deep: [CANARY, { [CANARY]: CANARY }] }),
    );
    const names = fc.constantFrom('Password', 'api_key', 'Token', 'PIN', 'Sign', 'deviceSecret');
    fc.assert(
      fc.property(names, secret, fc.nat({ max: 400 }), (name, value, cut) => {
        const text = JSON.stringify({ ID: 1, [name]: value, Name: 'x' }).slice(0, cut);
        expect(excerptOf(text)).not.toContain(CANARY);
      }),
      { numRuns: 1_000 },
    );
  });

  test('any bytes give at most the bytes that are shown, on one line', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        const shown = excerptOf(Buffer.from(bytes).toString());
        expect(Buffer.byteLength(shown)).toBeLessThanOrEqual(EXCERPT_BYTES);
        expect(shown).not.toMatch(/[\n\r]/);
      }),
    );
  });

  test('a URL loses what its query may hide and its excess', () => {
    expect(shownUrl(`/LAPI/V1.0/X?Sign=${CANARY}&limit=1`)).toBe('/LAPI/V1.0/X?Sign=[redacted]&limit=1');
    expect(shownUrl(`/LAPI/V1.0/X;Password=${CANARY}?kind=a;Token=${CANARY}`)).not.toContain(CANARY);
    expect(Buffer.byteLength(shownUrl(`/${'é'.repeat(400)}`))).toBeLessThanOrEqual(EXCERPT_BYTES);
  });
});
