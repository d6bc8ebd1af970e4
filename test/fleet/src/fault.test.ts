/** How faults are written, and on which devices they fall. */

import { expect, test } from 'vitest';
import { assignFaults, parseFault } from './fault.ts';

test.each([
  ['slow:500', { slowMs: 500 }, { share: 1 }],
  ['slow:500@10%', { slowMs: 500 }, { share: 0.1 }],
  ['mute@3', { mute: true }, { devices: 3 }],
  ['wrong-signature', { wrongSignature: true }, { share: 1 }],
  ['unknown-code', { unknownCode: true }, { share: 1 }],
  ['duplicate', { duplicate: true }, { share: 1 }],
  ['half-open:2.5', { halfOpenAfterMs: 2500 }, { share: 1 }],
  ['flap:5', { flapMs: 5000 }, { share: 1 }],
  ['storm', { storm: true }, { share: 1 }],
  ['storm:60', { storm: true, stormEveryMs: 60_000 }, { share: 1 }],
  ['no-keepalive', { noKeepalive: true }, { share: 1 }],
  ['garbage', { garbage: 'text' }, { share: 1 }],
  ['garbage:utf8', { garbage: 'utf8' }, { share: 1 }],
  ['unmasked', { unmasked: true }, { share: 1 }],
  ['big:64', { bigAnswerBytes: 65_536 }, { share: 1 }],
])('the fault %s is understood', (text, faults, on) => {
  expect(parseFault(text)).toEqual({ status: 'parsed', plan: { faults, on } });
});

test.each([
  '',
  'nonsense',
  'slow',
  'slow:x',
  'mute:3',
  'flap:0',
  'garbage:ebcdic',
  'mute@0',
  'mute@101%',
  'mute@1.5',
  'mute@',
  'mute@x',
])('the fault "%s" is refused in one sentence', (text) => {
  const parsed = parseFault(text);
  expect(parsed).toEqual({ status: 'wrong', sentence: expect.stringMatching(/^[^\n]+\.$/) });
});

test('different faults fall on different devices as long as there are enough', () => {
  const plan = (text: string) => {
    const parsed = parseFault(text);
    if (parsed.status === 'wrong') throw new Error(parsed.sentence);
    return parsed.plan;
  };
  const assigned = assignFaults([plan('mute@20%'), plan('slow:5@3'), plan('big:1')], 10);
  expect(assigned.map((faults) => [faults.mute === true, faults.slowMs === 5])).toEqual([
    [true, false],
    [true, false],
    [false, true],
    [false, true],
    [false, true],
    ...Array.from({ length: 5 }, () => [false, false]),
  ]);
  expect(assigned.every((faults) => faults.bigAnswerBytes === 1024)).toBe(true);
});
