/** Guards the question "must anything be installed?": a wrong yes costs minutes at each start, a wrong no breaks it. */

import { expect, test } from 'vitest';
import { type Lock, missingPackages, systemPath } from './packages.mjs';

const lock: Lock = {
  packages: {
    '': {},
    'libs/own': { version: '0.1.0' },
    'node_modules/@ours/own': { resolved: 'libs/own', link: true },
    'node_modules/plain': { version: '1.0.0', integrity: 'sha512-a' },
    'node_modules/plain/node_modules/inner': { version: '2.0.0', integrity: 'sha512-b' },
    'node_modules/tool-linux': { version: '3.0.0', integrity: 'sha512-c', optional: true },
    'node_modules/tool-darwin': { version: '3.0.0', integrity: 'sha512-d', optional: true },
  },
};

function installed(change: (packages: NonNullable<Lock['packages']>) => void = () => {}): Lock {
  const {
    '': _root,
    'libs/own': _own,
    'node_modules/tool-darwin': _other,
    ...packages
  } = structuredClone(lock.packages ?? {});
  change(packages);
  return { packages };
}

test('an installation of this platform is complete without the packages of others', () => {
  expect(missingPackages(lock, installed(), 'tool-linux')).toEqual([]);
});

test('without a record of an installation everything is missing', () => {
  expect(missingPackages(lock, undefined, undefined)).toEqual(['node_modules']);
});

test('a missing, an outdated and a left-over package are each noticed', () => {
  expect(
    missingPackages(
      lock,
      installed((packages) => delete packages['node_modules/plain/node_modules/inner']),
      undefined,
    ),
  ).toEqual(['inner']);
  const outdated = installed((packages) => {
    packages['node_modules/plain'] = { version: '0.9.0', integrity: 'sha512-z' };
  });
  expect(missingPackages(lock, outdated, undefined)).toEqual(['plain@1.0.0']);
  const extra = installed((packages) => {
    packages['node_modules/gone'] = { version: '1.0.0', integrity: 'sha512-y' };
  });
  expect(missingPackages(lock, extra, undefined)).toEqual(['gone (no longer used)']);
});

test('the same version with another checksum is not the same package', () => {
  const swapped = installed((packages) => {
    packages['node_modules/plain'] = { version: '1.0.0', integrity: 'sha512-other' };
  });
  expect(missingPackages(lock, swapped, undefined)).toEqual(['plain@1.0.0']);
});

test('a package that this platform needs is expected although it is optional: node_modules of another machine do not do', () => {
  expect(missingPackages(lock, installed(), 'tool-darwin')).toEqual(['tool-darwin']);
});

test('npm is never run with the Node that it replaces', () => {
  expect(systemPath({ PATH: '/a/node_modules/.bin:/usr/bin:/b/node_modules/.bin:/bin' })).toBe('/usr/bin:/bin');
});
