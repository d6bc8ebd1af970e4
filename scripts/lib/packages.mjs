/** Makes sure that node_modules is what package-lock.json says, before anything from it is used.
 *  npm leaves a record of what it installed (node_modules/.package-lock.json); it is compared with the lock, so an installation made by hand
 *  counts too and an interrupted one does not. Packages for other platforms are not expected. */

import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { nodePackage } from './node-binary.mjs';
import { Obstacle, unlessStopped } from './stop.mjs';

/** @typedef {{ version?: string, integrity?: string, optional?: boolean, devOptional?: boolean, link?: boolean, resolved?: string,
 *    dependencies?: Record<string, string>, optionalDependencies?: Record<string, string>, inBundle?: boolean, hasInstallScript?: boolean }} LockEntry */
/** @typedef {{ lockfileVersion?: number, packages?: Record<string, LockEntry> }} Lock */

/** Names what differs, at most three examples; an empty list means "installed".
 *  @param {Lock} lock package-lock.json
 *  @param {Lock | undefined} installed node_modules/.package-lock.json
 *  @param {string | undefined} needed an optional package that this platform needs all the same
 *  @returns {string[]} */
export function missingPackages(lock, installed, needed) {
  if (installed === undefined) return ['node_modules'];
  const there = installed.packages ?? {};
  /** @type {string[]} */
  const missing = [];
  for (const [where, entry] of Object.entries(lock.packages ?? {})) {
    if (!where.includes('node_modules/')) continue;
    const name = where.replace(/^.*node_modules\//, '');
    const found = there[where];
    if (found === undefined) {
      const expected = !(entry.optional || entry.devOptional) || name === needed;
      if (expected) missing.push(name);
    } else if (found.version !== entry.version || found.integrity !== entry.integrity || found.link !== entry.link) {
      missing.push(`${name}@${entry.version}`);
    }
  }
  for (const where of Object.keys(there)) {
    if (lock.packages?.[where] === undefined)
      missing.push(`${where.replace(/^.*node_modules\//, '')} (no longer used)`);
  }
  return missing;
}

/** @param {string} file
 *  @returns {Lock | undefined} */
function readLock(file) {
  if (!existsSync(file)) return undefined;
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** PATH without node_modules/.bin: npm must not run on the Node that it is about to replace.
 *  @param {NodeJS.ProcessEnv} env */
export function systemPath(env) {
  const inside = `node_modules${path.sep}.bin`;
  return (env.PATH ?? '')
    .split(path.delimiter)
    .filter((dir) => !dir.endsWith(inside))
    .join(path.delimiter);
}

/** @param {{ root: string, install: boolean, say: (line: string) => void, signal: AbortSignal }} options */
export async function ensurePackages({ root, install, say, signal }) {
  const lock = readLock(path.join(root, 'package-lock.json'));
  if (lock === undefined)
    throw new Obstacle('package-lock.json is missing or damaged: get it back from the repository.');
  const check = () =>
    missingPackages(lock, readLock(path.join(root, 'node_modules', '.package-lock.json')), nodePackage(process)?.name);
  const missing = check();
  if (missing.length === 0) return;
  const what = missing.slice(0, 3).join(', ') + (missing.length > 3 ? `, and ${missing.length - 3} more` : '');
  if (!install)
    throw new Obstacle(`Packages are not installed as package-lock.json says (${what}). Run: npm ci --ignore-scripts`);
  say(`Installing packages into node_modules (npm ci; missing: ${what}) …`);
  const windows = process.platform === 'win32';
  const npm = spawn(
    windows ? 'npm.cmd' : 'npm',
    ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'],
    {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
      shell: windows,
      env: { ...process.env, PATH: systemPath(process.env) },
    },
  );
  const ended = new Promise((resolve, reject) => {
    npm.once('error', (cause) => reject(new Obstacle('npm cannot be run. Is it installed with Node?', { cause })));
    npm.once('exit', resolve);
  });
  try {
    const code = await unlessStopped(ended, signal);
    if (code !== 0) throw new Obstacle('npm ci failed; its output above says why.');
  } finally {
    npm.kill('SIGTERM');
  }
  const still = check();
  if (still.length > 0)
    throw new Obstacle(`npm ci ended well, but packages are still missing: ${still.slice(0, 5).join(', ')}`);
}
