/** Gets a Redis (or Valkey) of version 7.0 or later: the one that REDIS_URL names, or a program on this machine, or, where that can be done
 *  without asking for a password, an installed one. Says what it installs before it does. Never leaves a system service running. */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { connect as connectTls } from 'node:tls';
import { Child } from './child.mjs';
import { anyPort } from './port.mjs';
import { findRedisBinary, isRecent } from './redis-binary.mjs';
import { Obstacle, unlessStopped } from './stop.mjs';

const PROBE_MS = 5_000;
const START_MS = 30_000;

/** @typedef {{ host: string, port: number, tls: boolean, username: string, password: string }} Endpoint */

/** The servers that a REDIS_URL names; sentinels count as servers.
 *  @param {string} url
 *  @returns {Endpoint[]} */
export function endpoints(url) {
  const match = /^(redis|rediss|redis\+sentinel|redis\+cluster):\/\/(?:([^@/]*)@)?([^/?]+)/.exec(url);
  if (match === null) return [];
  const [, scheme, credentials = '', hosts = ''] = match;
  const [username = '', ...rest] = credentials.split(':');
  const [name, password] = rest.length > 0 ? [username, rest.join(':')] : ['', username];
  const fallback = scheme === 'redis+sentinel' ? 26_379 : 6_379;
  return hosts.split(',').map((each) => {
    const parts = /^(\[[^\]]+\]|[^:]+)(?::(\d+))?$/.exec(each.trim());
    return {
      host: (parts?.[1] ?? '').replace(/^\[|\]$/g, ''),
      port: Number(parts?.[2] ?? fallback),
      tls: scheme === 'rediss',
      username: decodeURIComponent(name ?? ''),
      password: decodeURIComponent(password ?? ''),
    };
  });
}

/** @param {string} part */
function bulk(part) {
  return `$${Buffer.byteLength(part)}\r\n${part}\r\n`;
}

/** Asks one server for its version, in the few words of its protocol that this needs.
 *  @param {Endpoint} endpoint
 *  @returns {Promise<string>} version; rejects with the reason why there is none */
export function serverVersion({ host, port, tls, username, password }) {
  return new Promise((resolve, reject) => {
    const socket = tls ? connectTls({ host, port, servername: host }) : connect({ host, port });
    let text = '';
    /** @param {Error} error */
    const fail = (error) => {
      socket.destroy();
      reject(error);
    };
    socket.setTimeout(PROBE_MS, () => fail(new Error(`no answer within ${PROBE_MS} ms`)));
    socket.on('error', fail);
    socket.on('close', () => fail(new Error('connection closed without an answer')));
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      const version = /\r?\nredis_version:(\S+)/.exec(text)?.[1];
      const refusal = /(?:^|\n)-([^\r\n]+)\r\n/.exec(text)?.[1];
      if (version !== undefined) {
        resolve(version);
        socket.destroy();
      } else if (refusal !== undefined) fail(new Error(refusal));
      else if (text.length > 65_536) fail(new Error('this is not a Redis server'));
    });
    const auth = username === '' ? ['AUTH', password] : ['AUTH', username, password];
    if (password !== '') socket.write(`*${auth.length}\r\n${auth.map(bulk).join('')}`);
    socket.write(`*2\r\n${bulk('INFO')}${bulk('server')}`);
  });
}

/** One reachable server of a recent version is enough; the others may be down for the moment.
 *  @param {string} url */
export async function checkRedisUrl(url) {
  const problems = [];
  for (const endpoint of endpoints(url)) {
    const where = `${endpoint.host}:${endpoint.port}`;
    try {
      const version = await serverVersion(endpoint);
      if (isRecent(version)) return;
      problems.push(`${where} has version ${version}; 7.0 or later is needed`);
    } catch (error) {
      problems.push(`${where}: ${/** @type {Error} */ (error).message}`);
    }
  }
  throw new Obstacle(
    `REDIS_URL leads to no usable Redis (${problems.join('; ')}). Correct it, or unset it to have a Redis started here.`,
  );
}

/** @typedef {{ about: string, commands: string[][], env: Record<string, string> }} Installation */

/** How a Redis could be installed here without a question being asked; undefined when it cannot.
 *
 *  On Debian and Ubuntu it is `redis-tools` and not `redis-server`: the tools hold the same program (redis-server is a link to
 *  redis-check-rdb, which acts by the name it is called with), but no service that would start on port 6379.
 *  @param {{ platform: string, isRoot: boolean, has: (program: string) => boolean, sudoWithoutPassword: () => boolean }} machine
 *  @returns {Installation | undefined} */
export function planInstallation({ platform, isRoot, has, sudoWithoutPassword }) {
  if (platform === 'linux' && has('apt-get')) {
    const before = isRoot ? [] : has('sudo') && sudoWithoutPassword() ? ['sudo', '-n'] : undefined;
    if (before === undefined) return undefined;
    const quiet = [...before, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get'];
    return {
      about: 'the Debian package redis-tools (apt-get); no service is installed or started',
      commands: [
        [...quiet, 'update', '-qq'],
        [...quiet, 'install', '-y', '-qq', '--no-install-recommends', 'redis-tools'],
      ],
      env: {},
    };
  }
  if (platform === 'darwin' && has('brew')) {
    return {
      about: 'redis (brew); no service is started',
      commands: [['brew', 'install', '--quiet', 'redis']],
      env: { HOMEBREW_NO_AUTO_UPDATE: '1', HOMEBREW_NO_ANALYTICS: '1' },
    };
  }
  return undefined;
}

/** @param {{ platform: string, has: (program: string) => boolean }} machine
 *  @returns {string} what a person can type instead */
export function instruction({ platform, has }) {
  const other = 'or set REDIS_URL to a Redis or Valkey of version 7.0 or later';
  if (platform === 'linux' && has('apt-get'))
    return `Run: sudo apt-get install -y redis-tools, then start again; ${other}.`;
  if (platform === 'linux' && has('dnf')) return `Run: sudo dnf install -y valkey, then start again; ${other}.`;
  if (platform === 'linux' && has('apk')) return `Run: sudo apk add valkey, then start again; ${other}.`;
  if (platform === 'linux' && has('pacman'))
    return `Run: sudo pacman -S --noconfirm valkey, then start again; ${other}.`;
  if (platform === 'darwin')
    return `Install Homebrew (https://brew.sh), run: brew install redis, then start again; ${other}.`;
  return `Install Redis or Valkey 7.0 or later so that redis-server or valkey-server is on PATH, then start again; ${other}.`;
}

/** @param {string} program */
function onPath(program) {
  return (process.env.PATH ?? '')
    .split(path.delimiter)
    .some((dir) => dir !== '' && existsSync(path.join(dir, program)));
}

/** Debian's tools hold the server under another name; a link with the right name in the data directory makes it a server again.
 *  @param {string} dataDir
 *  @returns {string | undefined} the link, if there is such a program */
function linkFromTools(dataDir) {
  for (const [tool, name] of [
    ['redis-check-rdb', 'redis-server'],
    ['valkey-check-rdb', 'valkey-server'],
  ]) {
    const program = `/usr/bin/${tool}`;
    // A link here means the opposite arrangement: the tool is made from the server, which then is found by its own name.
    if (!existsSync(program) || lstatSync(program).isSymbolicLink()) continue;
    const dir = path.join(dataDir, 'bin');
    const link = path.join(dir, /** @type {string} */ (name));
    mkdirSync(dir, { recursive: true });
    rmSync(link, { force: true });
    symlinkSync(program, link);
    if (findRedisBinary({ LAPI_REDIS_SERVER: link }).file !== undefined) return link;
    rmSync(link, { force: true });
  }
  return undefined;
}

/** @param {string} dataDir
 *  @returns {{ file: string, version: string } | { file: undefined, rejected: string[] }} */
function look(dataDir) {
  const found = findRedisBinary(process.env);
  if (found.file !== undefined) return found;
  const link = linkFromTools(dataDir);
  const again = link === undefined ? found : findRedisBinary({ LAPI_REDIS_SERVER: link });
  return again.file === undefined ? found : again;
}

/** @param {{ dataDir: string, install: boolean, say: (line: string) => void, signal: AbortSignal }} options
 *  @returns {Promise<string>} path of the server program */
export async function ensureRedisBinary({ dataDir, install, say, signal }) {
  const found = look(dataDir);
  if (found.file !== undefined) return found.file;
  const machine = {
    platform: process.platform,
    isRoot: process.getuid?.() === 0,
    has: onPath,
    sudoWithoutPassword: () => spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore', timeout: 10_000 }).status === 0,
  };
  const reason =
    found.rejected.length > 0
      ? `Redis is too old: ${found.rejected.join(', ')}.`
      : 'There is no Redis on this machine.';
  const plan = install ? planInstallation(machine) : undefined;
  if (plan === undefined) throw new Obstacle(`${reason} ${instruction(machine)}`);
  say(`${reason} Installing ${plan.about} …`);
  for (const command of plan.commands) await installStep(command, plan.env, signal);
  const installed = look(dataDir);
  if (installed.file !== undefined) return installed.file;
  const what =
    installed.rejected.length > 0
      ? `what this system offers is too old: ${installed.rejected.join(', ')}`
      : 'it still cannot be found';
  throw new Obstacle(`Redis was installed, but ${what}. Set REDIS_URL to a Redis or Valkey of version 7.0 or later.`);
}

/** A package manager must not be killed half-way, so it runs out of reach of Ctrl-C and outside the reaper; a stop leaves it to finish.
 *  @param {string[]} command
 *  @param {Record<string, string>} env
 *  @param {AbortSignal} signal */
async function installStep(command, env, signal) {
  const [program = '', ...args] = command;
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, ...env },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk) => {
      output = (output + chunk).slice(-4_000);
    });
  }
  const ended = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const code = await unlessStopped(ended, signal);
  if (code !== 0) throw new Obstacle(`${command.join(' ')} failed:\n${output.trim()}`);
}

/** A server of our own on a free loopback port, behind a password, with its data in the data directory. Its configuration goes through
 *  stdin, where no other user of the machine can read the password.
 *  @param {{ file: string, dataDir: string, password: string, onLine: (line: string) => void, onChild: (child: Child) => void, signal: AbortSignal }} options
 *  @returns {Promise<string>} its URL */
export async function startRedis({ file, dataDir, password, onLine, onChild, signal }) {
  const port = await anyPort();
  const config = [
    `port ${port}`,
    'bind 127.0.0.1',
    `requirepass ${password}`,
    `dir ${JSON.stringify(path.join(dataDir, 'redis'))}`,
    'daemonize no',
    'save ""',
    'appendonly yes',
    'appendfsync everysec',
    '',
  ].join('\n');
  const child = new Child({
    name: 'redis',
    command: file,
    args: ['-'],
    input: config,
    logFile: path.join(dataDir, 'log', 'redis.log'),
    onLine,
  });
  onChild(child);
  const end = Date.now() + START_MS;
  const endpoint = { host: '127.0.0.1', port, tls: false, username: '', password };
  for (;;) {
    const up = await unlessStopped(
      serverVersion(endpoint).then(
        () => true,
        () => false,
      ),
      signal,
    );
    if (up) return `redis://:${encodeURIComponent(password)}@127.0.0.1:${port}`;
    if (child.exit !== undefined) throw new Obstacle(`Redis ended at once:\n${child.lastLines(20).join('\n')}`);
    if (Date.now() > end)
      throw new Obstacle(
        `Redis (${file}) did not answer within ${START_MS / 1000} s:\n${child.lastLines(20).join('\n')}`,
      );
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
