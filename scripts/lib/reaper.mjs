/** Ends what this process started, even when this process is killed with SIGKILL and cannot do it itself.
 *  One small shell waits on a pipe that only this process holds open. However this process ends, the pipe ends with it; the shell then
 *  kills the process groups that are still listed and removes the directories and network namespaces that are still listed. Orderly stopping is not done here:
 *  whoever starts a process stops it and forgets it; this is the net below. Without a POSIX shell (Windows) there is no net. */

import { spawn } from 'node:child_process';

/** The last list received counts. A list is one line: kind, then its entries, all separated by tabs. */
const WATCH = `
trap '' INT TERM HUP
IFS="$(printf '\\t')"
groups= dirs= namespaces=
while read -r kind list; do
  case $kind in groups) groups=$list ;; dirs) dirs=$list ;; namespaces) namespaces=$list ;; esac
done
set -f
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
for dir in $dirs; do rm -rf -- "$dir"; done
for namespace in $namespaces; do ip netns delete "$namespace" 2>/dev/null; done
`;

/** @type {Set<number>} */
const groups = new Set();
/** @type {Set<string>} */
const dirs = new Set();
/** @type {Set<string>} */
const namespaces = new Set();
/** @type {import('node:child_process').ChildProcess | undefined} */
let shell;

function tell() {
  if (process.platform === 'win32') return;
  if (shell === undefined) {
    shell = spawn('/bin/sh', ['-c', WATCH], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
    shell.on('error', () => {});
    shell.stdin?.on('error', () => {});
    shell.unref();
    /** @type {import('node:net').Socket} */ (shell.stdin).unref();
  }
  const lists = Object.entries({ groups, dirs, namespaces });
  shell.stdin?.write(lists.map(([kind, list]) => `${[kind, ...list].join('\t')}\n`).join(''));
}

/** The process must lead its own group (spawned with `detached: true`).
 *  @param {number} pid */
export function guardGroup(pid) {
  groups.add(pid);
  tell();
}

/** @param {number} pid */
export function forgetGroup(pid) {
  if (groups.delete(pid)) tell();
}

/** @param {string} dir */
export function guardDir(dir) {
  dirs.add(dir);
  tell();
}

/** @param {string} dir */
export function forgetDir(dir) {
  if (dirs.delete(dir)) tell();
}

/** @param {string} name */
export function guardNamespace(name) {
  namespaces.add(name);
  tell();
}

/** @param {string} name */
export function forgetNamespace(name) {
  if (namespaces.delete(name)) tell();
}
