import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Frame, FrameLog } from './frame-log.ts';

const ROOM = 64 * 1024;
const speaker = (): { frameMark: number } => ({ frameMark: -1 });
const request = (atMs: number): Frame => ({ atMs, direction: 'in', type: 'request', bytes: 10 });

test('the last 16 messages of a session are read, oldest first, their times in the clock of the reader', () => {
  const log = new FrameLog(ROOM);
  const [one, other] = [speaker(), speaker()];
  for (let i = 1; i <= 40; i++) {
    log.note(one, request(i));
    log.note(other, request(-i));
  }
  expect(log.read(one, 1_000).map(({ atMs }) => atMs)).toEqual(Array.from({ length: 16 }, (_, i) => 1_025 + i));
});

test('a session that said nothing has no messages', () => {
  const log = new FrameLog(ROOM);
  log.note(speaker(), request(1));
  expect(log.read(speaker(), 0)).toEqual([]);
});

test('without room nothing is kept', () => {
  const log = new FrameLog(100);
  const one = speaker();
  log.note(one, request(1));
  expect(one.frameMark).toBe(-1);
  expect(log.read(one, 0)).toEqual([]);
});

test('a message reads as it was, masked, its data a copy', () => {
  const log = new FrameLog(ROOM);
  const one = speaker();
  const data = Buffer.from(`{"Name":"x","Password":"geheim"}${' '.repeat(1_000)}`);
  log.note(one, { ...request(1), method: 'PUT', url: '/LAPI/V1.0/Türen?Sign=geheim', data });
  data.fill(0);
  log.note(one, { atMs: 2, direction: 'out', type: 'response', bytes: 0, url: '', responseCode: -1 });
  expect(log.read(one, 0)).toEqual([
    {
      atMs: 1,
      direction: 'in',
      type: 'request',
      bytes: 10,
      method: 'PUT',
      url: '/LAPI/V1.0/Türen?Sign=[redacted]',
      responseCode: undefined,
      excerpt: '{"Name":"x","Password":"[redacted]"}',
    },
    {
      atMs: 2,
      direction: 'out',
      type: 'response',
      bytes: 0,
      method: undefined,
      url: undefined,
      responseCode: -1,
      excerpt: undefined,
    },
  ]);
});

test('whatever is said, each session reads its own last messages without a hole, as far as the room goes', () => {
  const said = fc.record({ who: fc.nat({ max: 4 }), length: fc.nat({ max: 400 }) });
  fc.assert(
    fc.property(fc.array(said, { maxLength: 300 }), fc.integer({ min: 1_000, max: 6_000 }), (all, room) => {
      const log = new FrameLog(room);
      const speakers = Array.from({ length: 5 }, speaker);
      const expected: number[][] = speakers.map(() => []);
      for (const [i, { who, length }] of all.entries()) {
        log.note(speakers[who] as { frameMark: number }, {
          ...request(i),
          bytes: who,
          url: 'x'.repeat(length % 50),
          data: Buffer.alloc(length, `${who}`),
        });
        expected[who]?.push(i);
      }
      for (const [who, each] of speakers.entries()) {
        const read = log.read(each, 0);
        expect(read.map(({ atMs }) => atMs)).toEqual(expected[who]?.slice(expected[who].length - read.length));
        for (const { bytes, url } of read) expect([bytes, (url ?? '').replaceAll('x', '')]).toEqual([who, '']);
      }
      // Who spoke last is always read.
      const last = all.at(-1);
      if (last !== undefined) expect(log.read(speakers[last.who] as { frameMark: number }, 0)).not.toEqual([]);
    }),
  );
});
