import { expect, test } from 'vitest';
import { parcelIn, parcelSlip } from './parcel.ts';

test('a slip is told from frames by its first bytes, and one that is too long to be ours makes nobody fetch anything', () => {
  expect(parcelIn(parcelSlip('abcdefghij012345'))).toBe('abcdefghij012345');
  expect(parcelIn(parcelSlip('x'.repeat(61)))).toBeUndefined();
  expect(parcelIn(parcelSlip(''))).toBeUndefined();
  expect(parcelIn(Buffer.from('\0\0\0\x05large'))).toBeUndefined();
});
