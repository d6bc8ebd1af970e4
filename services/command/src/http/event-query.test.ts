/** Guards how `GET /v1/events` is read. */

import { expect, test } from 'vitest';
import { readEventQuery } from './event-query.ts';

const read = (query: string) => readEventQuery({ query, header: () => '' }, 16, Date.parse('2025-06-01T12:00:00Z'));

test.each(['device=', 'tag=', 'kind=,', 'device=A1&tag'])(
  'an empty filter is refused, not taken for none: %s',
  (query) => {
    expect(read(query)).toMatchObject({ status: 'invalid', faults: [{ problem: expect.stringContaining('empty') }] });
  },
);

test('an empty term between others asks nothing', () => {
  expect(read('kind=alarm.*,,structure').status).toBe('read');
});

test('without a parameter a subscriber gets everything, from the moment of joining', () => {
  expect(read('')).toMatchObject({ status: 'read', start: { from: 'now' } });
});
