import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';

const ENTRY = fileURLToPath(new URL('./testing/process-under-test.ts', import.meta.url));
const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

interface Run {
  readonly child: ChildProcess;
  readonly lines: readonly string[];
  until(line: string): Promise<void>;
  exit: Promise<number | null>;
}

function run(behavior: string): Run {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', ENTRY, behavior], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const lines: string[] = [];
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    lines.push(...parts);
  });
  // `close` comes after `exit` when all output has been read.
  const exit = new Promise<number | null>((resolve) => {
    child.on('close', (code) => resolve(code));
  });
  return { child, lines, exit, until: (line) => expect.poll(() => lines, { timeout: 5000 }).toContain(line) };
}

describe('signals', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)('%s: drain, stop, exit 0', async (signal) => {
    const it = run('plain');
    await it.until('running');
    it.child.kill(signal);
    expect(await it.exit).toBe(0);
    expect(it.lines).toEqual(['running', 'drain', 'stop']);
  });

  test('a second signal gives up the drain, stops at once, and the exit code says so', async () => {
    const it = run('drain-hangs');
    await it.until('running');
    it.child.kill('SIGTERM');
    await it.until('drain');
    it.child.kill('SIGTERM');
    expect(await it.exit).toBe(1);
    expect(it.lines).toEqual(['running', 'drain', 'warn process.stopping_at_once', 'stop']);
  });

  test('a third signal does not wait for a stop that hangs', async () => {
    const it = run('all-hangs');
    await it.until('running');
    it.child.kill('SIGTERM');
    await it.until('drain');
    it.child.kill('SIGINT');
    await it.until('stop');
    it.child.kill('SIGTERM');
    expect(await it.exit).toBe(1);
  });

  test('a signal while starting stops what has started', async () => {
    const it = run('start-hangs');
    await it.until('starting');
    it.child.kill('SIGTERM');
    expect(await it.exit).toBe(0);
    expect(it.lines).toEqual(['starting', 'stop']);
  });
});

describe('failures', () => {
  test('a failed start is fatal, exit 1, after what started has been stopped', async () => {
    const it = run('start-fails');
    expect(await it.exit).toBe(1);
    expect(it.lines).toEqual(['error part.start_failed', 'stop', 'fatal process.start_failed Error: port in use']);
  });

  test.each([
    ['throws', 'fatal process.uncaught_exception Error: unexpected'],
    ['rejects', 'fatal process.unhandled_rejection Error: forgotten'],
  ])('code that %s outside of any part: fatal, exit 1', async (behavior, line) => {
    const it = run(behavior);
    expect(await it.exit).toBe(1);
    expect(it.lines).toEqual(['running', line]);
  });
});
