/** URLs of webhooks: what they may say by themselves. */

import { expect, test } from 'vitest';
import { parseRanges } from './address-rules.ts';
import { parsePorts, readTarget, type TargetRules } from './target.ts';

const STRICT: TargetRules = { allowed: [], allowHttp: false, ports: [] };

const status = (url: string, rules: TargetRules = STRICT): string => readTarget(url, rules).status;

test('https to a name is taken, with its path and query', () => {
  expect(readTarget('https://vms.example.com/in?key=a%20b#part', STRICT)).toEqual({
    status: 'target',
    target: {
      secure: true,
      host: 'vms.example.com',
      port: 443,
      hostHeader: 'vms.example.com',
      path: '/in?key=a%20b',
    },
  });
});

test.each([
  'http://vms.example.com/',
  'ftp://vms.example.com/',
  'file:///etc/passwd',
  'gopher://vms.example.com/',
  'https://user@vms.example.com/',
  'https://user:secret@vms.example.com/',
  'https://:secret@vms.example.com/',
  'https://vms.example.com:8443/',
  'https://vms.example.com:80/',
  'https://',
  '//vms.example.com/',
  'vms.example.com',
  `https://vms.example.com/${'x'.repeat(2_048)}`,
])('%s is refused', (url) => {
  expect(status(url)).toBe('refused');
});

test.each([
  'https://127.0.0.1/',
  'https://127.1/',
  'https://2130706433/',
  'https://0x7f000001/',
  'https://0x7f.0.0.1/',
  'https://0177.0.0.1/',
  'https://017700000001/',
  'https://%31%32%37.0.0.1/',
  'https://１２７.0.0.1/',
  'https://169.254.169.254/latest/meta-data/',
  'https://0/',
  'https://[::1]/',
  'https://[0:0:0:0:0:0:0:1]/',
  'https://[::ffff:127.0.0.1]/',
  'https://[::ffff:a9fe:a9fe]/',
  'https://[64:ff9b::7f00:1]/',
  'https://[fe80::1]/',
])('%s leads to an address that is not public', (url) => {
  const read = readTarget(url, STRICT);
  expect(read).toMatchObject({ status: 'refused', why: expect.stringContaining('not a public address') });
});

test('what the operator allows is allowed: http, ports, ranges', () => {
  const rules = { allowed: parseRanges('127.0.0.0/8'), allowHttp: true, ports: parsePorts('8443, 9000') };
  expect(status('http://127.0.0.1/', rules)).toBe('target');
  expect(status('http://2130706433:9000/', rules)).toBe('target');
  expect(status('https://vms.example.com:8443/', rules)).toBe('target');
  expect(status('http://vms.example.com:443/', rules)).toBe('refused');
  expect(status('https://vms.example.com:8444/', rules)).toBe('refused');
  expect(status('https://[::1]/', rules)).toBe('refused');
  expect(status('ftp://127.0.0.1/', rules)).toBe('refused');
});

test.each(['0', '65536', 'https', '-1', '80;443', '1.5'])('%s is no port', (text) => {
  expect(() => parsePorts(`443,${text}`)).toThrow(RangeError);
});
