/** Runs one of our programs with the pinned Node after building it: `node scripts/run.mjs <entry in dist> [its arguments]`.
 *  Used by `npm run fleet`, `load`, `chaos`, `soak` and `fuzz`. The program keeps the terminal; its exit code becomes ours. */

import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from './lib/build.mjs';
import { nodeBinary, requireScriptNode, toolEnvironment } from './lib/node-binary.mjs';
import { ensurePackages } from './lib/packages.mjs';
import { Obstacle, onOrphaned, Stopped } from './lib/stop.mjs';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const SIGNALS = /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP']);

/** Standard output belongs to the program.
 *  @param {string} line */
const say = (line) => void process.stderr.write(`${line}\n`);

/** @param {string} entry such as test/fleet/dist/main.js */
function packageOf(entry) {
  const manifest = path.join(ROOT, entry.split('/dist/')[0] ?? '', 'package.json');
  if (!existsSync(manifest)) throw new Obstacle(`There is no package for ${entry}.`);
  return JSON.parse(readFileSync(manifest, 'utf8')).name;
}

/** @param {string} entry
 *  @param {string[]} args
 *  @returns {Promise<number>} */
async function run(entry, args) {
  const stopping = new AbortController();
  const abort = () => stopping.abort();
  for (const name of SIGNALS) process.once(name, abort);
  const { signal } = stopping;
  requireScriptNode();
  const packages = [packageOf(entry)];
  await ensurePackages({ root: ROOT, install: true, say, signal });
  const node = nodeBinary(ROOT);
  const env = toolEnvironment(ROOT, node, process.env);
  await build({ root: ROOT, node, env, packages, signal });
  if (signal.aborted) throw new Stopped();
  for (const name of SIGNALS) process.off(name, abort);
  const program = path.join(ROOT, entry);
  if (!existsSync(program)) throw new Obstacle(`The build made no ${entry}.`);
  const child = spawn(node, ['--enable-source-maps', program, ...args], { stdio: 'inherit', env });
  // Ctrl-C reaches the program by itself, being in our process group; a signal sent to us alone is passed on.
  process.on('SIGINT', () => {});
  for (const name of /** @type {const} */ (['SIGTERM', 'SIGHUP'])) process.on(name, () => void child.kill(name));
  onOrphaned(() => void child.kill('SIGTERM'));
  return await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, by) => resolve(code ?? (by === 'SIGINT' ? 130 : 1)));
  });
}

const [entry, ...args] = process.argv.slice(2);
try {
  if (entry === undefined) throw new Obstacle('Usage: node scripts/run.mjs <entry in dist> [arguments]');
  process.exitCode = await run(entry, args);
} catch (error) {
  if (error instanceof Stopped) process.exit(130);
  process.stderr.write(
    error instanceof Obstacle ? `${error.message}\n` : `${error instanceof Error ? error.stack : error}\n`,
  );
  process.exit(1);
}
