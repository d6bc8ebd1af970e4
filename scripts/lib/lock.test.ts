/** Guards the check of package-lock.json with locks that are broken in each way it must notice. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { exactSpec, judgeLock } from './lock.mjs';
import type { Lock } from './packages.mjs';

const manifests = {
  '': { dependencies: { tool: '1.0.0' }, optionalDependencies: { 'node-linux': '22.0.0' } },
  'libs/own': {
    dependencies: { alias: 'npm:real@2.0.0', ranged: '^3.0.0' },
    devDependencies: { '@ours/own': '0.1.0' },
  },
};

function lock(change: (packages: Record<string, Record<string, unknown>>) => void = () => {}): Lock {
  const packages: Record<string, Record<string, unknown>> = {
    '': { ...manifests[''] },
    'libs/own': { version: '0.1.0', ...manifests['libs/own'] },
    'node_modules/@ours/own': { resolved: 'libs/own', link: true },
    'node_modules/tool': {
      version: '1.0.0',
      integrity: 'sha512-a',
      optionalDependencies: { 'tool-linux': '1.0.0', 'tool-darwin': '1.0.0' },
    },
    'node_modules/tool-linux': { version: '1.0.0', integrity: 'sha512-b', optional: true },
    'node_modules/tool-darwin': { version: '1.0.0', integrity: 'sha512-c', optional: true },
    'node_modules/node-linux': {
      version: '22.0.0',
      integrity: 'sha512-d',
      optional: true,
      resolved: 'https://registry.npmjs.org/n/-/n.tgz',
    },
    'node_modules/alias': { name: 'real', version: '2.0.0', integrity: 'sha512-e' },
    'node_modules/ranged': { version: '3.4.0', integrity: 'sha512-f', dependencies: { inner: '1.1.1' } },
    'node_modules/ranged/node_modules/inner': { version: '1.1.1', integrity: 'sha512-g' },
    'node_modules/inner': { version: '9.0.0', integrity: 'sha512-h' },
  };
  change(packages);
  return { lockfileVersion: 3, packages: packages as NonNullable<Lock['packages']> };
}

const problems = (change: Parameters<typeof lock>[0]): string[] => judgeLock(lock(change), manifests);

test('a complete lock has no problems; addresses may be left out', () => {
  expect(judgeLock(lock(), manifests)).toEqual([]);
});

test('a platform package that the registry lacked is noticed', () => {
  expect(problems((packages) => delete packages['node_modules/tool-darwin'])).toEqual([
    'node_modules/tool names tool-darwin@1.0.0, but the lock has no entry for it',
  ]);
});

test('a platform package of another version is noticed', () => {
  expect(
    problems((packages) => Object.assign(packages['node_modules/tool-darwin'] ?? {}, { version: '0.9.0' })),
  ).toEqual(['node_modules/tool names tool-darwin@1.0.0, but node_modules/tool-darwin in the lock is 0.9.0']);
});

test('the nearest package counts, as it does for Node', () => {
  expect(problems((packages) => delete packages['node_modules/ranged/node_modules/inner'])).toEqual([
    'node_modules/ranged names inner@1.1.1, but node_modules/inner in the lock is 9.0.0',
  ]);
});

test('an alias must lead to the package that it names', () => {
  expect(problems((packages) => Object.assign(packages['node_modules/alias'] ?? {}, { name: 'fake' }))).toHaveLength(1);
});

test('an entry without checksum, or with a weak one, is noticed', () => {
  expect(problems((packages) => delete packages['node_modules/tool']?.integrity)[0]).toMatch(
    /^node_modules\/tool has no integrity/,
  );
  expect(
    problems((packages) => Object.assign(packages['node_modules/tool'] ?? {}, { integrity: 'sha1-x' }))[0],
  ).toMatch(/weak/);
});

test('another registry than the public one is noticed, and its credentials are not repeated', () => {
  const resolved = 'https://someone:hidden@registry.example/tool.tgz';
  const found = problems((packages) => Object.assign(packages['node_modules/tool'] ?? {}, { resolved }));
  expect(found).toEqual([
    'node_modules/tool comes from https://registry.example, not from https://registry.npmjs.org/',
  ]);
});

test('a package.json and a lock that disagree are noticed, as npm ci would', () => {
  expect(
    judgeLock(lock(), {
      ...manifests,
      '': { dependencies: { tool: '1.0.1' }, optionalDependencies: { 'node-linux': '22.0.0' } },
    }),
  ).toEqual(['package.json says dependencies tool@1.0.1, the lock says 1.0.0']);
  expect(judgeLock(lock(), { ...manifests, 'libs/new': {} })).toEqual(['libs/new/package.json is not in the lock']);
  const { 'libs/own': _removed, ...fewer } = manifests;
  expect(judgeLock(lock(), fewer)).toEqual(['the lock has a package libs/own, but there is none']);
});

test('a spec is exact only when it leaves no choice', () => {
  expect(exactSpec('1.2.3')).toEqual({ name: undefined, version: '1.2.3' });
  expect(exactSpec('npm:@scope/real@1.2.3-beta.1')).toEqual({ name: '@scope/real', version: '1.2.3-beta.1' });
  for (const range of ['^1.2.3', '1.x', '>=1.0.0', '*', 'latest']) expect(exactSpec(range).version).toBeUndefined();
});

test('a lock of this repository from which one platform package is removed would be refused', () => {
  const real: Lock = JSON.parse(readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8'));
  const packages = real.packages ?? {};
  const before = judgeLock(real, {}).length;
  delete packages['node_modules/@biomejs/cli-darwin-arm64'];
  expect(judgeLock(real, {})).toHaveLength(before + 1);
});
