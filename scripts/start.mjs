/** `npm start`: a whole broker on this machine with one command. Installs what is missing, builds, starts Redis, the command service, the
 *  edges and simulated devices, and says `ready` only after a call to a device has been answered through the API.
 *
 *  All children are ended in reverse order on Ctrl-C, on SIGTERM, when one of them dies, and when the start fails half-way; the reaper does it
 *  when this process is killed. Exit code 0 after a wanted stop, 1 otherwise. Not meant for production (docs/operator/operating.md). */

import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Api, DEVICE_FACTS_PATH } from './lib/api.mjs';
import { build } from './lib/build.mjs';
import { Child, tellExit } from './lib/child.mjs';
import { claimDataDir, keptSecret, makeDataDir, newApiKey, newKey } from './lib/kept.mjs';
import { nodeBinary, requireScriptNode, toolEnvironment } from './lib/node-binary.mjs';
import { ensurePackages } from './lib/packages.mjs';
import { requirePorts } from './lib/port.mjs';
import { checkRedisUrl, ensureRedisBinary, startRedis } from './lib/redis.mjs';
import { Digest, readyPorts } from './lib/service-log.mjs';
import { help, readSettings } from './lib/settings.mjs';
import { Obstacle, Stopped, stopOnSignals, throwIfStopped, unlessStopped } from './lib/stop.mjs';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const PACKAGES = ['@lapi-broker/edge', '@lapi-broker/command', '@lapi-broker/fleet'];
const SERVICE_READY_MS = 30_000;
const FIRST_DEVICE_MS = 60_000;
/** How long the others may still take once the first device answers; after that the block says how many are there. */
const ALL_DEVICES_MS = 20_000;
const STOP_BUDGET_MS = 10_000;
const SHOWN_LINES = 20;

const began = performance.now();

/** @param {string} line */
function say(line) {
  process.stdout.write(`${line}\n`);
}

/** Children in the order of their start; those of one step are stopped together. */
class Children {
  /** @type {Child[][]} */ #steps = [];
  /** @type {(child: Child) => void} */ #onDeath = () => {};
  /** Resolves with the first child that ends unasked. @type {Promise<Child>} */
  death = new Promise((resolve) => {
    this.#onDeath = resolve;
  });

  nextStep() {
    this.#steps.push([]);
  }

  /** @param {Child} child */
  add(child) {
    this.#steps.at(-1)?.push(child);
    void child.exited.then(() => this.#onDeath(child));
  }

  kill() {
    for (const child of this.#steps.flat()) child.kill();
  }

  /** Last step first. The time is shared: what an early step takes, the later ones do not have; each keeps at least a second. */
  async stop() {
    this.#onDeath = () => {};
    const end = performance.now() + STOP_BUDGET_MS;
    for (const [i, step] of [...this.#steps.entries()].reverse()) {
      const graceMs = Math.max(1_000, end - performance.now() - i * 1_000);
      const ends = await Promise.all(step.map(async (child) => ({ child, how: await child.stop(graceMs) })));
      for (const { child, how } of ends)
        if (how === 'killed') say(`${child.name} did not stop in time and was killed.`);
    }
  }
}

/** Settles like the work, unless a child dies or a stop is asked for first.
 *  @template T
 *  @param {Promise<T>} work
 *  @param {Children} children
 *  @param {AbortSignal} signal
 *  @returns {Promise<T>} */
async function whileAllLive(work, children, signal) {
  const death = children.death.then((child) => {
    const exit = child.exit;
    const how = exit === undefined ? 'ended' : tellExit(exit);
    throw new Obstacle(`${child.name} ${how}. Its last lines:\n${child.lastLines(SHOWN_LINES).join('\n')}`);
  });
  return await unlessStopped(Promise.race([work, death]), signal);
}

/** @param {Children} children
 *  @param {AbortSignal} signal
 *  @param {boolean} install */
async function run(children, signal, install) {
  requireScriptNode();
  const settings = readSettings(process.env);
  const dataDir = path.resolve(ROOT, settings.dataDir);
  await requirePorts(settings);
  await ensurePackages({ root: ROOT, install, say, signal });
  makeDataDir(dataDir);
  const release = claimDataDir(dataDir);
  try {
    const node = nodeBinary(ROOT);
    const env = toolEnvironment(ROOT, node, process.env);
    const redisFile =
      settings.redisUrl === undefined ? await ensureRedisBinary({ dataDir, install, say, signal }) : undefined;
    if (settings.redisUrl !== undefined) await checkRedisUrl(settings.redisUrl);
    say('Building …');
    await build({ root: ROOT, node, env, packages: PACKAGES, signal });
    throwIfStopped(signal);
    say('Starting …');
    await serve({ settings, dataDir, node, env, redisFile, children, signal });
  } finally {
    await children.stop();
    release();
  }
}

/** @typedef {object} Serving
 *  @property {import('./lib/settings.mjs').StartSettings} settings
 *  @property {string} dataDir
 *  @property {string} node
 *  @property {NodeJS.ProcessEnv} env
 *  @property {string | undefined} redisFile
 *  @property {Children} children
 *  @property {AbortSignal} signal */

/** @param {Serving} serving */
async function serve({ settings, dataDir, node, env, redisFile, children, signal }) {
  /** @param {string} name
   *  @param {string} entry
   *  @param {string[]} args
   *  @param {NodeJS.ProcessEnv} own */
  const launch = (name, entry, args, own) => {
    /** @type {(ports: { port: number, probePort: number }) => void} */
    let onReady = () => {};
    /** @type {Promise<{ port: number, probePort: number }>} */
    const ready = new Promise((resolve) => {
      onReady = resolve;
    });
    const digest = new Digest();
    const child = new Child({
      name,
      command: node,
      args: ['--enable-source-maps', path.join(ROOT, entry), ...args],
      cwd: ROOT,
      env: { ...env, ...own },
      logFile: path.join(dataDir, 'log', `${name}.log`),
      onLine: (line, from) => {
        const ports = readyPorts(line);
        if (ports !== undefined) onReady(ports);
        // The fleet reports its progress to stderr; its log file has it.
        const text = name === 'fleet' ? undefined : digest.take(line, from, performance.now());
        if (text !== undefined) say(`${name} | ${text}`);
      },
    });
    children.add(child);
    return { child, ready };
  };
  /** @template T
   *  @param {string} what
   *  @param {Promise<T>} promise
   *  @returns {Promise<T>} */
  const inTime = (what, promise) => {
    const late = sleep(SERVICE_READY_MS, undefined, { ref: false }).then(() => {
      throw new Obstacle(
        `${what} was not ready within ${SERVICE_READY_MS / 1_000} s. Logs: ${path.join(dataDir, 'log')}`,
      );
    });
    return whileAllLive(Promise.race([promise, late]), children, signal);
  };

  children.nextStep();
  const redisUrl =
    settings.redisUrl ??
    (await startRedis({
      file: /** @type {string} */ (redisFile),
      dataDir,
      password: randomBytes(24).toString('base64url'),
      onLine: () => {},
      onChild: (child) => children.add(child),
      signal,
    }));

  const apiKey = settings.apiKey ?? keptSecret(dataDir, 'api-key', newApiKey);
  const shared = {
    REDIS_URL: redisUrl,
    LAPI_SECRET_KEY: keptSecret(dataDir, 'secret-key', newKey),
    LAPI_IMAGE_STORE: process.env.LAPI_IMAGE_STORE || `file:${path.join(dataDir, 'images')}`,
    LAPI_PROBE_HOST: '127.0.0.1',
    LAPI_PROBE_PORT: '0',
  };
  const nonceKey = keptSecret(dataDir, 'nonce-key', newKey);

  children.nextStep();
  const command = launch('command', 'services/command/dist/main.js', [], {
    ...shared,
    LAPI_API_HOST: settings.apiHost,
    LAPI_API_PORT: String(settings.apiPort),
    LAPI_API_KEY: apiKey,
  });
  const commandPorts = await inTime('The command service', command.ready);

  children.nextStep();
  const edges = settings.devicePorts.map((port, i) => {
    const name = `edge-${i + 1}`;
    const { ready } = launch(name, 'services/edge/dist/main.js', [], {
      LAPI_DRAIN_SECONDS: '4',
      LAPI_DRAIN_DELAY_SECONDS: '0',
      ...shared,
      LAPI_NODE_NAME: name,
      LAPI_DEVICE_HOST: settings.deviceHost,
      LAPI_DEVICE_PORT: String(port),
      LAPI_NONCE_KEY: nonceKey,
    });
    return { name, ready };
  });
  const edgePorts = await Promise.all(edges.map(({ name, ready }) => inTime(name, ready)));

  const apiUrl = `http://${reachable(settings.apiHost)}:${settings.apiPort}`;
  const deviceUrls = settings.devicePorts.map((port) => `ws://${reachable(settings.deviceHost)}:${port}`);
  children.nextStep();
  launch('fleet', 'test/fleet/dist/main.js', fleetArgs({ devices: settings.devices, deviceUrls, apiUrl }), {
    LAPI_API_KEY: apiKey,
  });

  const api = new Api(apiUrl, apiKey, signal);
  const { code, online } = await whileAllLive(firstAnswer(api, settings.devices, signal), children, signal);
  say(
    readyBlock({
      apiUrl,
      apiKey,
      keptIn: settings.apiKey === undefined ? path.join(settings.dataDir, 'api-key') : 'LAPI_API_KEY',
      deviceUrls,
      probes: [
        { name: 'command', port: commandPorts.probePort },
        ...edges.map(({ name }, i) => ({ name, port: edgePorts[i]?.probePort ?? 0 })),
      ],
      redis:
        settings.redisUrl === undefined
          ? `127.0.0.1:${new URL(redisUrl).port} (data in ${path.join(settings.dataDir, 'redis')})`
          : 'as REDIS_URL says',
      logs: path.join(settings.dataDir, 'log'),
      code,
      online,
      devices: settings.devices,
    }),
  );
  await whileAllLive(new Promise(() => {}), children, signal);
}

/** A mixed fleet with an alarm now and then, so that there is something to see. It waits for ever: this script judges when it is too late.
 *  @param {{ devices: number, deviceUrls: string[], apiUrl: string }} facts
 *  @returns {string[]} */
function fleetArgs({ devices, deviceUrls, apiUrl }) {
  const target = ['--devices', String(devices), '--url', deviceUrls.join(','), '--api', apiUrl];
  return [...target, '--profile', 'nvr=2,ipc=7,radar=1', '--alarms', '1', '--wait', '0'];
}

/** An address that a program on this machine can connect to.
 *  @param {string} host */
function reachable(host) {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}

/** Waits for the first device to answer a call, then a while for the others to come online.
 *  @param {Api} api
 *  @param {number} wanted
 *  @param {AbortSignal} signal
 *  @returns {Promise<{ code: string, online: number }>} */
async function firstAnswer(api, wanted, signal) {
  const end = performance.now() + FIRST_DEVICE_MS;
  /** @type {unknown} */
  let last;
  for (;;) {
    throwIfStopped(signal);
    try {
      const first = (await api.onlineDevices())[0];
      if (first !== undefined) {
        await api.callDevice(first.code);
        return { code: first.code, online: await countOnline(api, wanted, signal) };
      }
      last = 'no device is online';
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) throw new Obstacle(`No device answered within ${FIRST_DEVICE_MS / 1_000} s: ${last}`);
    await sleep(200);
  }
}

/** @param {Api} api
 *  @param {number} wanted
 *  @param {AbortSignal} signal */
async function countOnline(api, wanted, signal) {
  const end = performance.now() + ALL_DEVICES_MS;
  for (;;) {
    throwIfStopped(signal);
    const online = (await api.onlineDevices()).length;
    if (online >= wanted || performance.now() > end) return online;
    await sleep(250);
  }
}

/** @param {{ apiUrl: string, apiKey: string, keptIn: string, deviceUrls: string[], probes: { name: string, port: number }[], redis: string,
 *    logs: string, code: string, online: number, devices: number }} facts */
function readyBlock({ apiUrl, apiKey, keptIn, deviceUrls, probes, redis, logs, code, online, devices }) {
  const seconds = ((performance.now() - began) / 1_000).toFixed(1);
  return `
ready after ${seconds} s: ${online} of ${devices} simulated devices online, and ${code} answered a call

  API            ${apiUrl}/v1
  Documentation  ${apiUrl}/docs
  OpenAPI        ${apiUrl}/openapi.json
  API key        ${apiKey}   (${keptIn})
  Devices        ${deviceUrls.join('   ')}
  Probes         ${probes.map(({ name, port }) => `${name} http://127.0.0.1:${port}/readyz`).join('\n                 ')}
  Redis          ${redis}
  Logs           ${logs}

Try
  KEY='${apiKey}'

  Call a device
  curl -H "Authorization: Bearer $KEY" ${apiUrl}/v1/devices/${code}${DEVICE_FACTS_PATH}

  Queue a command, for when the device is there
  curl -X POST -H "Authorization: Bearer $KEY" ${apiUrl}/v1/devices/${code}/commands -d '{"mode":"queue","method":"GET","url":"/LAPI/V1.0/System/DeviceInfo"}'

  List devices
  curl -H "Authorization: Bearer $KEY" '${apiUrl}/v1/devices?limit=5'

  Follow events
  curl -N -H "Authorization: Bearer $KEY" ${apiUrl}/v1/events

Stop with Ctrl-C.
`;
}

const args = process.argv.slice(2);
const unknown = args.filter((arg) => !['--help', '--no-install'].includes(arg));
if (args.includes('--help') || unknown.length > 0) {
  if (unknown.length > 0) process.stderr.write(`There is no option ${unknown.join(', ')}.\n\n`);
  process.stdout.write(help());
  process.exit(unknown.length > 0 ? 2 : 0);
}

const children = new Children();
const signal = stopOnSignals({
  onFirst: () => say('\nStopping … (once more: kill)'),
  kill: () => children.kill(),
});
try {
  await run(children, signal, !args.includes('--no-install'));
} catch (error) {
  if (error instanceof Stopped || signal.aborted) {
    say('Stopped.');
    process.exit(0);
  }
  process.stderr.write(
    error instanceof Obstacle ? `\n${error.message}\n` : `\n${error instanceof Error ? error.stack : error}\n`,
  );
  process.exit(1);
}
