/** Guards the references in docs/ against leaving something out: what the code can say, the pages explain. Sources are read as text, because
 *  most of these words are types and are gone when the code runs. */

import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { createProfiles } from '@lapi-broker/device';
import { expect, test } from 'vitest';

const ROOT = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const read = (file: string): string => readFileSync(path.join(ROOT, file), 'utf8');

function words(text: string, pattern: RegExp): string[] {
  return [...new Set([...text.matchAll(pattern)].map(([, word = '']) => word))];
}

/** The members of `export type <name> = 'a' | 'b'`. */
function unionOf(file: string, name: string): string[] {
  const body = new RegExp(`type ${name} =([^;]+);`).exec(read(file))?.[1] ?? '';
  return words(body, /'([a-z_]+)'/g);
}

function missing(found: readonly string[], page: string): string[] {
  const text = read(page);
  return found.filter((word) => !text.includes(`\`${word}\``));
}

test('every metric of both services is in operating.md', () => {
  const sources = globSync('services/*/src/**/*.ts', { cwd: ROOT }).map(read).join('\n');
  const metrics = words(sources, /metrics\.(?:counter|gauge|histogram|observed)\(\s*'([a-z_]+)'/g);
  expect(metrics.length).toBeGreaterThan(30);
  expect(missing(metrics, 'docs/operator/operating.md')).toEqual([]);
});

test('every route is in api.md', () => {
  const routes = words(read('services/command/src/http/api.ts'), /path: '(\/[^']*)'/g);
  expect(routes.length).toBeGreaterThan(10);
  const text = read('docs/platform/api.md');
  for (const route of [...routes, '/v1/events', '/v1/stream'])
    expect(text).toMatch(new RegExp(`[\` ]${escaped(route)}\``));
});

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

test('every reason of a refused registration is in runbooks.md', () => {
  const reasons = unionOf('services/edge/src/device/handshake.ts', 'RejectReason');
  expect(reasons).toContain('bad_sign');
  expect(missing(reasons, 'docs/operator/runbooks.md')).toEqual([]);
});

test('every reason of presence.offline is in events.md', () => {
  const reasons = unionOf('libs/routing/src/owner-registry.ts', 'OfflineReason');
  expect(reasons).toContain('node_lost');
  expect(missing(reasons, 'docs/platform/events.md')).toEqual([]);
});

test('every message of the stream is in events.md', () => {
  const types = words(read('services/command/src/http/stream-message.ts'), /\{type:'([a-z]+)'/g);
  expect(types).toContain('subscribe');
  expect(missing(types, 'docs/platform/events.md')).toEqual([]);
});

test('every member of a profile and every built-in profile is in profiles.md', () => {
  const profiles = createProfiles();
  expect(missing([...profiles.keys()], 'docs/operator/profiles.md')).toEqual([]);
  expect(missing(Object.keys(profiles.get('default') ?? {}), 'docs/operator/profiles.md')).toEqual([]);
});

test('every key is in the table of ARCHITECTURE.md', () => {
  const keys = words(read('libs/redis/src/keyspace.ts'), /^ \* {2}lapi:(?:\{s07\}:)?([a-z]+)/gm);
  expect(keys).toContain('owned');
  const text = read('ARCHITECTURE.md');
  expect(keys.filter((key) => !new RegExp(`[:\`…]${key}[:\`]`).test(text))).toEqual([]);
});
