/** What the command line accepts, what it makes of it, and how it refuses. */

import { expect, test } from 'vitest';
import { planFleet } from '../fleet.ts';
import { deriveSecret } from '../signature.ts';
import { helpText, parseCommandLine } from './options.ts';

function parse(line: string) {
  return parseCommandLine(line === '' ? [] : line.split(' '), () => 'random');
}

function accepted(line: string) {
  const parsed = parse(line);
  if (parsed.status !== 'run') throw new Error(JSON.stringify(parsed));
  return parsed.options;
}

test('without options there are ten recorders at the default address', () => {
  const { fleet, waitMs, durationMs, provision } = accepted('');
  expect(fleet).toMatchObject({ devices: 10, urls: ['ws://127.0.0.1:8090'], mix: { nvr: 1 } });
  expect([waitMs, durationMs, provision]).toEqual([60_000, undefined, undefined]);
});

test('addresses, events, faults and limits reach the fleet', () => {
  const { fleet, durationMs, json } = accepted(
    '--devices 5 --url ws://a:1,wss://b --url http://c:2 --alarms 2 --structures 0.5 --picture-kb 700 --fault mute@1 --fault slow:9@50% ' +
      '--sign raw --same-connection --insecure --duration 1.5 --json --source 127.0.0.2,127.0.0.3 --reconnect 5 --only-subscribed',
  );
  expect(fleet).toMatchObject({
    devices: 5,
    urls: ['ws://a:1', 'wss://b', 'http://c:2'],
    rates: { alarm: 2, structure: 0.5 },
    pictureBytes: 716_800,
    faults: [
      { faults: { mute: true }, on: { devices: 1 } },
      { faults: { slowMs: 9 }, on: { share: 0.5 } },
    ],
    signEncoding: 'raw',
    sameConnection: true,
    verifyCertificate: false,
    sources: ['127.0.0.2', '127.0.0.3'],
    reconnect: { minMs: 5000, maxMs: 30_000 },
    onlySubscribed: true,
  });
  expect([durationMs, json]).toEqual([1500, true]);
});

test('codes are 20 characters: prefix, profile letter, number; a mix is spread evenly', () => {
  const plan = planFleet(accepted('--devices 6 --profile nvr=1,ipc=2 --first 41').fleet);
  expect(plan.map(({ code }) => code)).toEqual([
    '210235SIMI0000000041',
    '210235SIMN0000000042',
    '210235SIMI0000000043',
    '210235SIMI0000000044',
    '210235SIMN0000000045',
    '210235SIMI0000000046',
  ]);
  expect(planFleet(accepted('--devices 1 --prefix X --profile radar').fleet)[0]?.code).toBe('XR000000000000000001');
});

test('secrets derive from the seed: the default one, the given one, or a random one with --api', () => {
  const secretOf = (line: string) => planFleet(accepted(line).fleet)[0]?.secret;
  expect(secretOf('')).toBe(deriveSecret('lapi-fleet', '210235SIMN0000000001'));
  expect(secretOf('--secret-seed own')).toBe(deriveSecret('own', '210235SIMN0000000001'));
  expect(secretOf('--api http://h:1')).toBe(deriveSecret('random', '210235SIMN0000000001'));
  expect(secretOf('--secret fixed-secret')).toBe('fixed-secret');
});

test.each([
  ['--devices many', '--devices must be a number from 1 to 1000000, not "many".'],
  ['--devices 1.5', '--devices must be a whole number from 1 to 1000000, not "1.5".'],
  ['--devices', "Option '--devices <value>' argument missing; see --help."],
  ['--url ftp://x', '--url must be like ws://host:port or wss://host, not "ftp://x".'],
  ['--profile tv', '--profile must be nvr, ipc, radar or a mix such as nvr=20,ipc=80, not "tv".'],
  ['--profile nvr=0', '--profile "nvr=0" leaves no device.'],
  ['--prefix a/b', '--prefix must be at most 12 letters, digits or . _ : -, not "a/b".'],
  ['--secret a --secret-seed b', 'Use either --secret or --secret-seed, not both.'],
  ['--key k', '--key has a meaning only together with --api.'],
  ['--api here', '--api must be like http://host:port, not "here".'],
  ['--sign hex', '--sign must be percent or raw, not "hex".'],
  ['--vendor a/b', '--vendor must be 1 to 64 characters without "/".'],
  ['--nonsense', "Unknown option '--nonsense'; see --help."],
  ['stray', "Unexpected argument 'stray'; see --help."],
  ['--json=yes', "Option '--json' does not take an argument; see --help."],
])('%s is refused: %s', (line, sentence) => {
  expect(parse(line)).toEqual({ status: 'wrong', sentence });
});

test('an unknown fault is refused with the known names', () => {
  expect(parse('--fault sleepy')).toEqual({
    status: 'wrong',
    sentence: expect.stringContaining('known are slow, mute,'),
  });
});

test('the help names every option and every fault', () => {
  expect(parse('--help')).toEqual({ status: 'help', text: helpText() });
  for (const word of [
    '--devices',
    '--only-subscribed',
    '--api',
    'half-open:S',
    'storm[:S]',
    'garbage[:KIND]',
    'npm run fleet --',
    'Exit code',
  ]) {
    expect(helpText()).toContain(word);
  }
});
