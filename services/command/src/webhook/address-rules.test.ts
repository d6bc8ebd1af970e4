/** Addresses of webhooks: what is refused, in every form it can be written in. */

import { describe, expect, test } from 'vitest';
import { isAllowedAddress, parseRange, parseRanges } from './address-rules.ts';

const refusedByDefault = [
  ['0.0.0.0', '0.255.255.255'],
  ['10.0.0.0', '10.255.255.255'],
  ['100.64.0.0', '100.127.255.255'],
  ['127.0.0.1', '127.255.255.254'],
  ['169.254.0.1', '169.254.169.254'],
  ['172.16.0.0', '172.31.255.255'],
  ['192.0.0.1', '192.0.0.170'],
  ['192.0.2.1', '192.0.2.255'],
  ['192.88.99.1', '192.88.99.2'],
  ['192.168.0.1', '192.168.255.255'],
  ['198.18.0.1', '198.19.255.255'],
  ['198.51.100.1', '203.0.113.7'],
  ['224.0.0.1', '239.255.255.255'],
  ['240.0.0.1', '255.255.255.255'],
  ['::', '::1'],
  ['::ffff:127.0.0.1', '::ffff:7f00:1'],
  ['::ffff:8.8.8.8', '::8.8.8.8'],
  ['64:ff9b::7f00:1', '64:ff9b::10.0.0.1'],
  ['64:ff9b:1::1', '100::1'],
  ['2001::1', '2001:0:4136:e378:8000:63bf:3fff:fdd2'],
  ['2001:10::1', '2001:20::1'],
  ['2001:db8::1', '3fff:0fff::1'],
  ['2002:7f00:1::', '2002:a9fe:a9fe::1'],
  ['fc00::1', 'fdff:ffff::1'],
  ['fe80::1', 'febf::1'],
  ['fe80::1%eth0', 'fec0::1'],
  ['ff02::1', '5f00::1'],
] as const;

const open = ['1.1.1.1', '9.255.255.255', '11.0.0.0', '100.63.255.255', '100.128.0.0', '126.255.255.255'];
const openToo = ['128.0.0.1', '169.253.255.255', '172.15.255.255', '172.32.0.0', '192.0.1.1', '198.17.255.255'];
const open6 = ['2606:4700:4700::1111', '2a00:1450:4001:830::200e', '2001:200::1', '2003::1', '3ffe:ffff::1'];

describe('without an allowance', () => {
  test.each(refusedByDefault)('%s and %s are refused', (first, last) => {
    expect(isAllowedAddress(first, [])).toBe(false);
    expect(isAllowedAddress(last, [])).toBe(false);
  });

  test.each([...open, ...openToo, ...open6])('%s is public', (address) => {
    expect(isAllowedAddress(address, [])).toBe(true);
  });

  test.each(['', 'localhost', '1.2.3', '01.2.3.4', '0x7f.0.0.1', '2130706433', '[::1]', '::1::', '1.1.1.1 ', 'g::1'])(
    '%j is no address, and refused',
    (text) => {
      expect(isAllowedAddress(text, [])).toBe(false);
    },
  );
});

test('an allowed range is allowed, and nothing beside it', () => {
  const allowed = parseRanges(' 10.1.0.0/16, fd00:1::/32 ,192.168.7.9');
  for (const address of ['10.1.0.0', '10.1.255.255', 'fd00:1::', 'fd00:1:ffff::1', '192.168.7.9']) {
    expect(isAllowedAddress(address, allowed)).toBe(true);
  }
  for (const address of ['10.0.255.255', '10.2.0.0', 'fd00:2::', 'fd00::', '192.168.7.8', '::ffff:10.1.0.1']) {
    expect(isAllowedAddress(address, allowed)).toBe(false);
  }
});

test('an allowance counts in the family in which it is written', () => {
  expect(isAllowedAddress('::a01:1', parseRanges('10.1.0.0/16'))).toBe(false);
  expect(isAllowedAddress('10.1.0.1', parseRanges('::/0'))).toBe(false);
  expect(isAllowedAddress('::1', parseRanges('::/0'))).toBe(true);
  expect(isAllowedAddress('127.0.0.1', parseRanges('0.0.0.0/0'))).toBe(true);
});

test.each([
  '10.0.0.1/8',
  '10.0.0.0/33',
  '10.0.0.0/',
  '10.0.0.0/8/8',
  'fd00::/129',
  'fd00::1/8',
  'ten/8',
  '/8',
  '10.0.0.0/+8',
])('%s is no range', (text) => {
  expect(parseRange(text)).toBeUndefined();
  expect(() => parseRanges(`1.1.1.1,${text}`)).toThrow(RangeError);
});
