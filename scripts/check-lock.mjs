/** `npm run check:lock`: fails when package-lock.json cannot be installed on every platform, or names another registry than the public one. */

import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { judgeLock } from './lib/lock.mjs';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** @param {string} file
 *  @returns {any} */
const readJson = (file) => JSON.parse(readFileSync(path.join(ROOT, file), 'utf8'));

/** Directories of all packages, from patterns of the form `libs/*`.
 *  @param {string[]} patterns */
function workspaces(patterns) {
  return patterns.flatMap((pattern) => {
    const dir = pattern.replace(/\/\*$/, '');
    return readdirSync(path.join(ROOT, dir), { withFileTypes: true })
      .filter((each) => each.isDirectory())
      .map((each) => `${dir}/${each.name}`);
  });
}

const root = readJson('package.json');
const manifests = Object.fromEntries(
  ['', ...workspaces(root.workspaces)].map((dir) => [dir, readJson(path.join(dir, 'package.json'))]),
);
const lock = readJson('package-lock.json');
const problems = judgeLock(lock, manifests);
if (problems.length === 0) {
  process.stdout.write(`package-lock.json is complete: ${Object.keys(lock.packages).length} entries.\n`);
} else {
  process.stderr.write(`package-lock.json cannot be used everywhere:
${problems.map((each) => `  ${each}`).join('\n')}

An entry is missing when the registry lacked a package for some platform while the lock was written. Choose a version of the package that
names it whose platform packages are all published, state that exact version in package.json, and run: npm install --ignore-scripts
Where a package.json and the lock disagree, run the same. Where an address names another registry, remove the "resolved" lines.
`);
  process.exitCode = 1;
}
