import { expect, test } from 'vitest';
import { httpStatusOf, responseString } from './response-code.ts';

test('every row of 13.2 has its HTTP status (L32)', () => {
  expect(httpStatusOf(0, true)).toBe(200);
  const rows: [number | undefined, number][] = [
    [2, 400],
    [3, 403],
    [5, 403],
    [4, 501],
    [2001, 404],
    [0, 502],
    ...[1, 102, 201, 202, 203, 500, 1002, 77777, -1, undefined].map((code): [number | undefined, number] => [
      code,
      502,
    ]),
  ];
  for (const [code, status] of rows) expect([code, httpStatusOf(code, false)]).toEqual([code, status]);
});

test('the texts of the codes that the broker sends are those of 13.1', () => {
  expect([0, 1, 4].map(responseString)).toEqual(['Succeed', 'Common Error', 'Not Supported']);
  expect(responseString(12345)).toBe('Unknown');
});
