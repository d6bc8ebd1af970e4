/** The settings of `npm start`: one table, from which reading, checking and `--help` come. Pure. */

import { Obstacle } from './stop.mjs';

/** @typedef {{ name: string, fallback: string, about: string, check?: (value: string) => string | undefined }} Setting */

/** @param {number} least
 *  @param {number} most
 *  @returns {(value: string) => string | undefined} */
function whole(least, most) {
  return (value) =>
    /^\d{1,9}$/.test(value) && Number(value) >= least && Number(value) <= most
      ? undefined
      : `must be a whole number from ${least} to ${most}`;
}

/** @param {string} value */
function redisUrl(value) {
  if (!/^redis(s|\+sentinel|\+cluster)?:\/\/\S+$/.test(value))
    return 'must start with redis://, rediss://, redis+sentinel:// or redis+cluster://';
  try {
    decodeURIComponent(value);
    return undefined;
  } catch {
    return 'must have its user and password percent-encoded (a % itself is %25)';
  }
}

/** @type {readonly Setting[]} */
export const SETTINGS = [
  {
    name: 'LAPI_API_PORT',
    fallback: '8080',
    about: 'Port of the platform API and its documentation page.',
    check: whole(1, 65_535),
  },
  {
    name: 'LAPI_API_HOST',
    fallback: '127.0.0.1',
    about: 'Address of the platform API; 0.0.0.0 opens it to the network.',
  },
  {
    name: 'LAPI_DEVICE_PORT',
    fallback: '8090',
    about: 'Port on which devices connect to the first edge; each further edge takes the next one.',
    check: whole(1, 65_535),
  },
  {
    name: 'LAPI_DEVICE_HOST',
    fallback: '127.0.0.1',
    about: 'Address on which devices connect; 0.0.0.0 lets real devices in.',
  },
  { name: 'LAPI_EDGES', fallback: '2', about: 'Number of edge nodes.', check: whole(1, 8) },
  {
    name: 'LAPI_DEVICES',
    fallback: '20',
    about: 'Number of simulated devices, spread over the edges.',
    check: whole(1, 10_000),
  },
  {
    name: 'LAPI_API_KEY',
    fallback: '',
    about: 'API key with all scopes. Without it one is made and kept in the data directory.',
    // What the command service takes, so that a wrong one is told before anything is built.
    check: (value) =>
      /^[A-Za-z0-9._~+/=-]{32,256}$/.test(value) ? undefined : 'must be 32 to 256 of A–Z a–z 0–9 . _ ~ + / = -',
  },
  { name: 'LAPI_DATA_DIR', fallback: '.lapi', about: 'Directory of everything that is kept: keys, Redis data, logs.' },
  {
    name: 'REDIS_URL',
    fallback: '',
    about: 'Redis or Valkey, version 7.0 or later, to be used instead of starting one.',
    check: redisUrl,
  },
];

/** @typedef {object} StartSettings
 *  @property {number} apiPort
 *  @property {string} apiHost
 *  @property {number[]} devicePorts one per edge
 *  @property {string} deviceHost
 *  @property {number} devices
 *  @property {string | undefined} apiKey
 *  @property {string} dataDir
 *  @property {string | undefined} redisUrl */

/** An empty value counts as absent. All problems are reported together.
 *  @param {NodeJS.ProcessEnv} env
 *  @returns {StartSettings} */
export function readSettings(env) {
  /** @type {string[]} */
  const problems = [];
  /** @param {string} name */
  const value = (name) => {
    const setting = SETTINGS.find((each) => each.name === name);
    const given = env[name]?.trim() ?? '';
    if (given === '') return setting?.fallback ?? '';
    const problem = setting?.check?.(given);
    if (problem !== undefined) problems.push(`${name}: ${problem}`);
    return given;
  };
  const apiPort = Number(value('LAPI_API_PORT'));
  const firstPort = Number(value('LAPI_DEVICE_PORT'));
  const edges = Number(value('LAPI_EDGES'));
  const settings = {
    apiPort,
    apiHost: value('LAPI_API_HOST'),
    devicePorts: Array.from({ length: edges > 0 && edges <= 8 ? edges : 0 }, (_, i) => firstPort + i),
    deviceHost: value('LAPI_DEVICE_HOST'),
    devices: Number(value('LAPI_DEVICES')),
    apiKey: value('LAPI_API_KEY') || undefined,
    dataDir: value('LAPI_DATA_DIR'),
    redisUrl: value('REDIS_URL') || undefined,
  };
  if (problems.length === 0) {
    const last = settings.devicePorts.at(-1) ?? 0;
    if (last > 65_535) problems.push(`LAPI_DEVICE_PORT: ${edges} edges need ports up to ${last}, which does not exist`);
    if (settings.devicePorts.includes(apiPort)) {
      problems.push(
        `LAPI_API_PORT: ${apiPort} is one of the device ports ${firstPort}–${last}; choose another LAPI_API_PORT or LAPI_DEVICE_PORT`,
      );
    }
  }
  if (problems.length > 0)
    throw new Obstacle(`Settings that cannot be used:\n${problems.map((each) => `  ${each}`).join('\n')}`);
  return settings;
}

/** @returns {string} */
export function help() {
  const width = Math.max(...SETTINGS.map((each) => each.name.length));
  const rows = SETTINGS.map(
    ({ name, fallback, about }) => `  ${name.padEnd(width)}  ${about}${fallback === '' ? '' : ` Default: ${fallback}`}`,
  );
  return `npm start [-- options]

Installs what is missing, builds, and runs a whole broker on this machine: Redis, edge nodes, the platform API and simulated devices.
Ctrl-C stops all of it. A later start finds the data of the earlier one.

Options
  --no-install  Install nothing; say what is missing instead.
  --help        This text.

Settings (environment variables)
${rows.join('\n')}

Every setting of the services themselves (LAPI_LOG_LEVEL, LAPI_PROFILES_FILE, …) is passed on to them.
`;
}
