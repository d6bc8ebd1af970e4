/** Answers "which Redis server program can we run here?". Redis and Valkey from version 7.0 on will do: sharded pub/sub and
 *  ADDSLOTSRANGE came with 7.0. Installing one is not done here. */

import { spawnSync } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import path from 'node:path';

export const MIN_MAJOR = 7;

/** `Redis server v=7.0.15 …`, `Valkey server v=8.1.1 …`. Undefined when the text is something else.
 *  @param {string} text output of `redis-server --version`
 *  @returns {string | undefined} */
export function parseVersion(text) {
  return /server v=(\d+\.\d+\.\d+)/i.exec(text)?.[1];
}

/** @param {string} version
 *  @returns {boolean} */
export function isRecent(version) {
  return Number(version.split('.')[0]) >= MIN_MAJOR;
}

/** @param {string} file */
function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

/** Looks for redis-server, then valkey-server, in every directory of PATH; LAPI_REDIS_SERVER names one directly.
 *  @param {NodeJS.ProcessEnv} env
 *  @returns {{ file: string, version: string } | { file: undefined, rejected: string[] }} `rejected`: found, but too old or broken */
export function findRedisBinary(env) {
  const named = env.LAPI_REDIS_SERVER;
  const dirs = (env.PATH ?? '').split(path.delimiter).filter((dir) => dir !== '');
  const candidates =
    named !== undefined && named !== ''
      ? [named]
      : ['redis-server', 'valkey-server'].flatMap((name) => dirs.map((dir) => path.join(dir, name)));
  const rejected = [];
  for (const file of candidates) {
    if (!isExecutable(file)) continue;
    const run = spawnSync(file, ['--version'], { encoding: 'utf8', timeout: 10_000 });
    const version = parseVersion(run.stdout ?? '');
    if (version !== undefined && isRecent(version)) return { file, version };
    rejected.push(version === undefined ? `${file} (does not tell its version)` : `${file} (version ${version})`);
  }
  return { file: undefined, rejected };
}
