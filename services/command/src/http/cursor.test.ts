import type { DeviceCode } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { decodeListCursor, encodeListCursor } from './cursor.ts';

const code = fc.stringMatching(/^[A-Za-z0-9._:-]{1,64}$/);

it('a cursor names the code it was made from', () => {
  fc.assert(
    fc.property(code, (text) => {
      expect(decodeListCursor(encodeListCursor(text as DeviceCode))).toBe(text);
    }),
  );
});

it('whatever else is given is not a cursor', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.base64String(), code), (text) => {
      const found = decodeListCursor(text);
      expect(found === undefined || encodeListCursor(found) === text).toBe(true);
    }),
  );
  for (const text of [
    '',
    '1',
    'AAAA',
    Buffer.from('2abc').toString('base64url'),
    `${encodeListCursor('abc' as DeviceCode)}=`,
  ]) {
    expect(decodeListCursor(text)).toBeUndefined();
  }
});
