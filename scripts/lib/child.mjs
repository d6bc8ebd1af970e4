/** Runs a program as a child in a process group of its own: Ctrl-C in the terminal reaches only the script, which then stops its children in
 *  its own order. Output goes line by line to a callback and, where asked, whole to a bounded log file. Known to the reaper. */

import { spawn } from 'node:child_process';
import { closeSync, openSync, renameSync, writeSync } from 'node:fs';
import { forgetGroup, guardGroup } from './reaper.mjs';
import { Obstacle } from './stop.mjs';

const KEPT_LINES = 200;
const MAX_LINE_CHARS = 65_536;
const MAX_LOG_BYTES = 32 * 1024 * 1024;

/** @typedef {{ code: number | null, signal: NodeJS.Signals | null }} Exit */

/** @typedef {object} ChildOptions
 *  @property {string} name
 *  @property {string} command
 *  @property {readonly string[]} args
 *  @property {NodeJS.ProcessEnv} [env]
 *  @property {string} [cwd]
 *  @property {string} [input] written to stdin, which is closed afterwards
 *  @property {string} [logFile] starts empty; at 32 MiB it is renamed to `<file>.1` and a new one begins
 *  @property {(line: string, from: 'stdout' | 'stderr') => void} [onLine] */

/** @param {string} file */
function openLog(file) {
  let handle = openSync(file, 'w', 0o600);
  let bytes = 0;
  return {
    /** @param {string} line */
    write(line) {
      if (bytes > MAX_LOG_BYTES) {
        closeSync(handle);
        renameSync(file, `${file}.1`);
        handle = openSync(file, 'w', 0o600);
        bytes = 0;
      }
      bytes += writeSync(handle, `${line}\n`);
    },
    close: () => closeSync(handle),
  };
}

/** @param {NodeJS.ReadableStream} stream
 *  @param {(line: string) => void} onLine */
export function eachLine(stream, onLine) {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk) => {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop() ?? '';
    for (const part of parts) onLine(part.replace(/\r$/, ''));
    if (rest.length > MAX_LINE_CHARS) {
      onLine(rest);
      rest = '';
    }
  });
  stream.on('end', () => {
    if (rest !== '') onLine(rest);
  });
}

/** @param {Exit} exit */
export function tellExit({ code, signal }) {
  return signal === null ? `ended with code ${code}` : `was ended by ${signal}`;
}

export class Child {
  /** @type {string} */ name;
  /** @type {Promise<Exit>} settles after the last output, never rejects */ exited;
  /** @type {Exit | undefined} */ exit;
  /** @type {string[]} */ #lines = [];
  /** @type {import('node:child_process').ChildProcess} */ #process;

  /** @param {ChildOptions} options */
  constructor({ name, command, args, env, cwd, input, logFile, onLine }) {
    this.name = name;
    const log = logFile === undefined ? undefined : openLog(logFile);
    const child = spawn(command, args, {
      env: env ?? process.env,
      cwd,
      stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      detached: process.platform !== 'win32',
    });
    this.#process = child;
    if (child.pid !== undefined) guardGroup(child.pid);
    /** @param {'stdout' | 'stderr'} from
     *  @returns {(line: string) => void} */
    const take = (from) => (line) => {
      this.#lines.push(line);
      if (this.#lines.length > KEPT_LINES) this.#lines.shift();
      log?.write(line);
      onLine?.(line, from);
    };
    if (child.stdout) eachLine(child.stdout, take('stdout'));
    if (child.stderr) eachLine(child.stderr, take('stderr'));
    child.stdin?.on('error', () => {});
    if (input !== undefined) child.stdin?.end(input);
    this.exited = new Promise((resolve) => {
      /** @param {Exit} exit */
      const end = (exit) => {
        if (this.exit !== undefined) return;
        this.exit = exit;
        if (child.pid !== undefined) forgetGroup(child.pid);
        log?.close();
        resolve(exit);
      };
      child.once('error', (error) => {
        this.#lines.push(String(error));
        if (child.pid === undefined) end({ code: 127, signal: null });
      });
      child.once('close', (code, signal) => end({ code, signal }));
    });
  }

  /** @param {number} count
   *  @returns {string[]} newest lines of output */
  lastLines(count) {
    return this.#lines.slice(-count);
  }

  /** @param {NodeJS.Signals} signal */
  signal(signal) {
    if (this.exit === undefined) this.#process.kill(signal);
  }

  /** The child and everything it started in its group. */
  kill() {
    const pid = this.#process.pid;
    if (pid === undefined || this.exit !== undefined) return;
    try {
      process.kill(process.platform === 'win32' ? pid : -pid, 'SIGKILL');
    } catch {
      // Gone in the meantime, which is what was wanted.
    }
  }

  /** SIGTERM, and SIGKILL after graceMs.
   *  @param {number} graceMs
   *  @returns {Promise<'ended' | 'killed'>} */
  async stop(graceMs) {
    /** @type {'ended' | 'killed'} */
    let how = 'ended';
    this.signal('SIGTERM');
    const timer = setTimeout(() => {
      how = 'killed';
      this.kill();
    }, graceMs);
    await this.exited;
    clearTimeout(timer);
    return how;
  }
}

/** Runs a program to its end. Fails with its output when the code is not 0. Ends it when the signal fires.
 *  @param {ChildOptions} options
 *  @param {AbortSignal} signal
 *  @returns {Promise<void>} */
export async function runQuietly(options, signal) {
  const child = new Child(options);
  const onAbort = () => void child.stop(3_000);
  signal.addEventListener('abort', onAbort, { once: true });
  const exit = await child.exited;
  signal.removeEventListener('abort', onAbort);
  if (exit.code === 0 || signal.aborted) return;
  throw new Obstacle(`${options.name} ${tellExit(exit)}:\n${child.lastLines(60).join('\n')}`);
}
