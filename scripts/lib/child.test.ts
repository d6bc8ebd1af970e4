/** Guards the life of child processes of the scripts, and what they keep. */

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Child, runQuietly } from './child.mjs';
import { claimDataDir, keptSecret, newApiKey, newKey } from './kept.mjs';
import { anyPort, requirePorts } from './port.mjs';
import { readSettings } from './settings.mjs';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'lapi-scripts-'));
});

afterEach(() => {
  rmSync(dir, { recursive: true, force: true });
});

const node = (script: string) => ({ name: 'example', command: process.execPath, args: ['--eval', script] });
const never = new AbortController().signal;

test('output goes to the log file and line by line to the callback; input is given and closed', async () => {
  const seen: string[] = [];
  const logFile = path.join(dir, 'example.log');
  const child = new Child({
    ...node(`process.stdin.on('data', (d) => process.stdout.write('got ' + d)); console.error('late')`),
    input: 'this\n',
    logFile,
    onLine: (line, from) => seen.push(`${from}: ${line}`),
  });
  expect(await child.exited).toEqual({ code: 0, signal: null });
  expect(new Set(seen)).toEqual(new Set(['stderr: late', 'stdout: got this']));
  expect(new Set(readFileSync(logFile, 'utf8').split('\n'))).toEqual(new Set(['got this', 'late', '']));
  expect(statSync(logFile).mode & 0o077).toBe(0);
});

test('a child that ignores SIGTERM is killed after its grace', async () => {
  const child = new Child(node(`process.on('SIGTERM', () => {}); console.log('up'); setInterval(() => {}, 1000)`));
  while (child.lastLines(1).length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  expect(await child.stop(50)).toBe('killed');
  expect(child.exit).toEqual({ code: null, signal: 'SIGKILL' });
});

test('a program that cannot be run has ended', async () => {
  const child = new Child({ name: 'none', command: path.join(dir, 'none'), args: [] });
  expect((await child.exited).code).toBe(127);
  expect(child.lastLines(1)[0]).toContain('ENOENT');
});

test('a quiet run fails with its output', async () => {
  await runQuietly(node('0'), never);
  await expect(runQuietly(node(`console.log('the reason'); process.exit(4)`), never)).rejects.toThrow(
    /ended with code 4:\nthe reason/,
  );
});

test('a secret is made once, kept, and readable by its owner only', () => {
  const first = keptSecret(dir, 'key', newKey);
  expect(keptSecret(dir, 'key', newKey)).toBe(first);
  expect(Buffer.from(first, 'base64')).toHaveLength(32);
  expect(statSync(path.join(dir, 'key')).mode & 0o777).toBe(0o600);
  expect(newApiKey()).toMatch(/^lapi_[A-Za-z0-9_-]{43}$/);
  writeFileSync(path.join(dir, 'empty'), '\n');
  expect(() => keptSecret(dir, 'empty', newKey)).toThrow('is empty');
});

test('a data directory serves one start at a time; the mark of a dead one does not count', () => {
  const file = path.join(dir, 'start.pid');
  writeFileSync(file, `${process.ppid}\n`);
  expect(() => claimDataDir(dir)).toThrow(`process ${process.ppid}`);
  writeFileSync(file, '4194305\n');
  const release = claimDataDir(dir);
  expect(readFileSync(file, 'utf8')).toBe(`${process.pid}\n`);
  release();
  expect(() => statSync(file)).toThrow();
});

test('a taken port is named with the setting that changes it', async () => {
  const port = await anyPort();
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(port, '127.0.0.1', resolve);
  });
  try {
    const free = String(await anyPort());
    const settings = readSettings({ LAPI_API_PORT: String(port), LAPI_DEVICE_PORT: free, LAPI_EDGES: '1' });
    await expect(requirePorts(settings)).rejects.toThrow(
      new RegExp(`Port ${port} on 127.0.0.1, for the platform API, is taken. LAPI_API_PORT`),
    );
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});
