/** Answers "which NATS server, Mosquitto, HAProxy and nft can the tests run here?", and gets them where that needs no question: their
 *  Debian packages are unpacked into the data directory. Nothing is installed into the system and no service is set up.
 *  They are wanted, not needed: without them the tests of sinks, of a balancer and of network namespaces are skipped, and what to type instead is said. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Child } from './child.mjs';
import { throwIfStopped } from './stop.mjs';

/** @typedef {{ file: string, env: Record<string, string> }} Program `env`: what it needs beside the usual */
/** @typedef {'nats' | 'mosquitto' | 'haproxy' | 'nft'} ServerName */
/** @typedef {{ program: string, debian: string, variable: string, ask: string, version: RegExp, least: readonly [number, number] }} ServerFacts */

/** @type {Readonly<Record<ServerName, ServerFacts>>} */
const SERVERS = {
  nats: {
    program: 'nats-server',
    debian: 'nats-server',
    variable: 'LAPI_NATS_SERVER',
    ask: '--version',
    version: /nats-server: v(\d+)\.(\d+)/,
    least: [2, 9],
  },
  mosquitto: {
    program: 'mosquitto',
    debian: 'mosquitto',
    variable: 'LAPI_MOSQUITTO',
    ask: '-h',
    version: /mosquitto version (\d+)\.(\d+)/,
    least: [2, 0],
  },
  haproxy: {
    program: 'haproxy',
    debian: 'haproxy',
    variable: 'LAPI_HAPROXY',
    ask: '-v',
    version: /HAProxy version (\d+)\.(\d+)/,
    least: [2, 4],
  },
  nft: {
    program: 'nft',
    debian: 'nftables',
    variable: 'LAPI_NFT',
    ask: '--version',
    version: /nftables v(\d+)\.(\d+)/,
    least: [0, 9],
  },
};

const ROOT = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const UNPACKED = path.join(ROOT, '.lapi', 'test-servers');
const USUAL_DIRS = ['/usr/sbin', '/usr/local/sbin', '/usr/local/bin', '/opt/homebrew/sbin', '/opt/homebrew/bin'];
const ASK_MS = 10_000;

/** @param {ServerName} name
 *  @param {string} output
 *  @returns {boolean} */
export function isUsable(name, output) {
  const { version, least } = SERVERS[name];
  const [, major, minor] = version.exec(output) ?? [];
  return Number(major) > least[0] || (Number(major) === least[0] && Number(minor) >= least[1]);
}

/** @param {ServerName} name
 *  @param {NodeJS.ProcessEnv} env a variable of its own names the program directly
 *  @param {string} [unpacked]
 *  @returns {Program | undefined} */
export function findTestServer(name, env, unpacked = UNPACKED) {
  const { program, variable, ask } = SERVERS[name];
  const named = env[variable];
  const dirs = [...(env.PATH ?? '').split(path.delimiter), ...USUAL_DIRS].filter((dir) => dir !== '');
  const files = named ? [named] : [...new Set(dirs)].map((dir) => path.join(dir, program));
  /** @type {Program[]} */
  const candidates = files.map((file) => ({ file, env: {} }));
  if (!named) {
    const libraries = ['usr/lib', 'lib'].flatMap((dir) => entries(path.join(unpacked, dir), /-linux-gnu/));
    candidates.push({ file: path.join(unpacked, 'usr/sbin', program), env: { LD_LIBRARY_PATH: libraries.join(':') } });
  }
  return candidates.find((candidate) => {
    if (!existsSync(candidate.file)) return false;
    const run = spawnSync(candidate.file, [ask], {
      encoding: 'utf8',
      timeout: ASK_MS,
      env: { ...process.env, ...candidate.env },
    });
    return isUsable(name, `${run.stdout ?? ''}${run.stderr ?? ''}`);
  });
}

/** @param {string} dir
 *  @param {RegExp} pattern
 *  @returns {string[]} paths; none where there is no such directory */
function entries(dir, pattern) {
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((name) => pattern.test(name))
    .map((name) => path.join(dir, name));
}

/** @returns {ServerName[]} */
function missing() {
  return /** @type {ServerName[]} */ (Object.keys(SERVERS)).filter(
    (name) => findTestServer(name, process.env) === undefined,
  );
}

/** @param {readonly ServerName[]} names
 *  @returns {string} */
export function testServerInstruction(names) {
  const programs = names.map((name) => `${SERVERS[name].program} ≥ ${SERVERS[name].least.join('.')}`).join(' and ');
  const packages = names.map((name) => SERVERS[name].debian).join(' ');
  return `${programs} not found, so what needs them is skipped. To run it: sudo apt-get install -y --no-install-recommends ${packages}`;
}

/** Says what it does and what it could not do; rejects only when it was stopped.
 *  @param {{ say: (line: string) => void, signal: AbortSignal }} options */
export async function ensureTestServers({ say, signal }) {
  const wanted = missing();
  if (wanted.length === 0) return;
  const packages = wanted.map((name) => SERVERS[name].debian);
  if (process.platform === 'linux' && existsSync('/usr/bin/apt-get') && existsSync('/usr/bin/dpkg-deb')) {
    say(`Unpacking the Debian packages ${packages.join(', ')} into .lapi for tests; nothing is installed …`);
    await unpack(packages, signal);
  }
  const still = missing();
  if (still.length > 0) say(testServerInstruction(still));
}

/** Needs no right to install anything. Where the lists of packages are missing, only root can fetch them.
 *  @param {readonly string[]} packages
 *  @param {AbortSignal} signal */
async function unpack(packages, signal) {
  const archives = path.join(UNPACKED, 'archives');
  rmSync(archives, { recursive: true, force: true });
  mkdirSync(path.join(archives, 'partial'), { recursive: true });
  // One by one: a package that this system does not have keeps none of the others away.
  const download = async () => {
    let all = true;
    for (const each of packages) {
      const command = [
        ...['apt-get', 'install', '--download-only', '-y', '-qq', '--no-install-recommends'],
        ...['-o', `Dir::Cache::archives=${archives}`, '-o', 'Debug::NoLocking=1', '-o', 'APT::Sandbox::User='],
        each,
      ];
      if (!(await run(command, signal))) all = false;
    }
    return all;
  };
  if (!(await download()) && process.getuid?.() === 0) {
    await run(['apt-get', 'update', '-qq'], signal);
    await download();
  }
  for (const file of entries(archives, /\.deb$/)) await run(['dpkg-deb', '-x', file, UNPACKED], signal);
  rmSync(archives, { recursive: true, force: true });
}

/** @param {string[]} command
 *  @param {AbortSignal} signal
 *  @returns {Promise<boolean>} true when it ended well */
async function run([command = '', ...args], signal) {
  const child = new Child({ name: command, command, args, env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } });
  const onAbort = () => void child.stop(5_000);
  signal.addEventListener('abort', onAbort, { once: true });
  const { code } = await child.exited;
  signal.removeEventListener('abort', onAbort);
  throwIfStopped(signal);
  return code === 0;
}
