/** What is made once and kept in the data directory: keys, and the mark that one start at a time uses the directory. */

import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Obstacle } from './stop.mjs';

const KEY_BYTES = 32;

/** @returns {string} */
export function newApiKey() {
  return `lapi_${randomBytes(KEY_BYTES).toString('base64url')}`;
}

/** @returns {string} */
export function newKey() {
  return randomBytes(KEY_BYTES).toString('base64');
}

/** Readable by its owner only.
 *  @param {string} dir
 *  @param {string} name
 *  @param {() => string} make
 *  @returns {string} what the file holds; it is written on first use */
export function keptSecret(dir, name, make) {
  const file = path.join(dir, name);
  if (existsSync(file)) {
    const kept = readFileSync(file, 'utf8').trim();
    if (kept === '')
      throw new Obstacle(`${file} is empty. Remove it to have a new one made; what it protected is lost then.`);
    return kept;
  }
  const made = make();
  writeFileSync(file, `${made}\n`, { mode: 0o600, flag: 'wx' });
  return made;
}

/** @param {string} dir */
export function makeDataDir(dir) {
  try {
    mkdirSync(path.join(dir, 'log'), { recursive: true, mode: 0o700 });
    mkdirSync(path.join(dir, 'redis'), { recursive: true, mode: 0o700 });
    chmodSync(dir, 0o700);
  } catch (cause) {
    throw new Obstacle(`The data directory ${dir} cannot be made or written (LAPI_DATA_DIR names another): ${cause}`, {
      cause,
    });
  }
}

/** @param {number} pid */
function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
}

/** Two brokers in one directory would write the same Redis files. A mark left by a process that is gone counts for nothing.
 *  @param {string} dir
 *  @returns {() => void} gives the directory back */
export function claimDataDir(dir) {
  const file = path.join(dir, 'start.pid');
  const holder = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0;
  if (holder > 0 && holder !== process.pid && isAlive(holder)) {
    throw new Obstacle(
      `Another start (process ${holder}) uses ${dir}. Stop it, or set LAPI_DATA_DIR to another directory. If that process is something else, remove ${file}.`,
    );
  }
  writeFileSync(file, `${process.pid}\n`, { mode: 0o600 });
  return () => rmSync(file, { force: true });
}
