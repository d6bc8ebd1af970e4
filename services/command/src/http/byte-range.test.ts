import { expect, test } from 'vitest';
import { namesVersion, rangeOf } from './byte-range.ts';

const part = (first: number, last: number) => ({ status: 'part', first, last });

test('one range is read in its three forms and cut to what there is', () => {
  expect(rangeOf('bytes=0-0', 10)).toEqual(part(0, 0));
  expect(rangeOf('bytes=2-5', 10)).toEqual(part(2, 5));
  expect(rangeOf('Bytes = 2-500', 10)).toEqual(part(2, 9));
  expect(rangeOf('bytes=9-', 10)).toEqual(part(9, 9));
  expect(rangeOf('bytes=-3', 10)).toEqual(part(7, 9));
  expect(rangeOf('bytes=-30', 10)).toEqual(part(0, 9));
});

test('what begins behind the end cannot be satisfied', () => {
  for (const header of ['bytes=10-', 'bytes=10-20', 'bytes=-0'])
    expect(rangeOf(header, 10)).toEqual({ status: 'unsatisfiable' });
});

test('anything else is no range: all of it is sent', () => {
  for (const header of [
    '',
    'bytes=-',
    'bytes=5-2',
    'bytes=0-1,3-4',
    'lines=1-2',
    'bytes=a-b',
    `bytes=0-${'9'.repeat(16)}`,
  ])
    expect(rangeOf(header, 10), header).toEqual({ status: 'all' });
});

test('a version is named exactly, weakly, in a list, or by a star', () => {
  for (const header of ['"a"', 'W/"a"', '"b", "a"', '*']) expect(namesVersion(header, '"a"'), header).toBe(true);
  for (const header of ['', 'a', '"b"', '"ab"', 'W/"b"']) expect(namesVersion(header, '"a"'), header).toBe(false);
});
