/** The command line of the fleet: one table that is both the parser's and the help text's source. Pure.
 *  Every wrong value gives one sentence that says what was expected; nothing is guessed. */

import { parseArgs } from 'node:util';
import { EVENT_KINDS, type EventKind } from '../event.ts';
import { FAULT_SYNTAX, type FaultPlan, parseFault } from '../fault.ts';
import { DEFAULT_PREFIX, DEFAULT_SECRET_SEED, type FleetOptions } from '../fleet.ts';
import { parseEdge } from '../handshake.ts';
import { PROFILE_NAMES, type ProfileName } from '../profile.ts';
import { deriveSecret } from '../signature.ts';

export interface ProvisionSettings {
  readonly api: string;
  readonly key: string | undefined;
  readonly tags: readonly string[];
  readonly profile: string | undefined;
}

export interface CommandLine {
  readonly fleet: FleetOptions;
  readonly provision: ProvisionSettings | undefined;
  /** 0 = without limit. */
  readonly waitMs: number;
  /** Undefined = until interrupted. */
  readonly durationMs: number | undefined;
  readonly json: boolean;
}

export type ParsedCommandLine =
  | { readonly status: 'run'; readonly options: CommandLine }
  | { readonly status: 'help'; readonly text: string }
  | { readonly status: 'wrong'; readonly sentence: string };

interface OptionRow {
  readonly name: string;
  /** Placeholder; absent for switches. */
  readonly value?: string;
  readonly multiple?: boolean;
  readonly help: string;
}

interface Section {
  readonly title: string;
  readonly rows: readonly OptionRow[];
}

const DEFAULT_URL = 'ws://127.0.0.1:8090';
const DEFAULT_WAIT_S = 60;

const SECTIONS: readonly Section[] = [
  {
    title: 'Fleet',
    rows: [
      { name: 'devices', value: 'N', help: 'how many devices (default 10; about 18000 fit in one process)' },
      {
        name: 'url',
        value: 'URL',
        multiple: true,
        help: `where devices dial in; repeat it or use commas to spread them (default ${DEFAULT_URL})`,
      },
      { name: 'rate', value: 'N', help: 'registrations begun per second at the start (default 200)' },
      {
        name: 'profile',
        value: 'MIX',
        help: 'nvr, ipc or radar, or a mix such as nvr=20,ipc=70,radar=10 (default nvr)',
      },
      { name: 'channels', value: 'N', help: 'channels of an NVR, 1 to 128 (default 8)' },
      {
        name: 'prefix',
        value: 'TEXT',
        help: `start of every device code, at most 12 characters (default ${DEFAULT_PREFIX})`,
      },
      { name: 'first', value: 'N', help: 'number in the first code (default 1); give each process its own range' },
      { name: 'seed', value: 'TEXT', help: 'another seed gives other events and other jitter' },
    ],
  },
  {
    title: 'Secrets and provisioning',
    rows: [
      {
        name: 'secret-seed',
        value: 'TEXT',
        help: `secret of a device = base64url(HMAC-SHA256(TEXT, code)) (default ${DEFAULT_SECRET_SEED}; with --api a random one)`,
      },
      { name: 'secret', value: 'TEXT', help: 'the same secret for all devices' },
      { name: 'api', value: 'URL', help: 'provision the devices first: PUT URL/v1/devices/{code}' },
      { name: 'key', value: 'TEXT', help: 'API key for --api; default: the variable LAPI_API_KEY' },
      { name: 'tag', value: 'TEXT', multiple: true, help: 'tag for --api; may be repeated' },
      {
        name: 'broker-profile',
        value: 'NAME',
        help: 'profile for --api (default nvr, ipc or radar, as the device is)',
      },
    ],
  },
  {
    title: 'Events, per device and minute',
    rows: [
      { name: 'alarms', value: 'N', help: 'alarms such as MotionAlarmOn (default 0)' },
      { name: 'structures', value: 'N', help: 'structure events with pictures; NVR and IPC (default 0)' },
      { name: 'people', value: 'N', help: 'people counts; NVR and IPC (default 0)' },
      { name: 'health', value: 'N', help: 'vital signs; radar (default 0)' },
      { name: 'pass', value: 'N', help: 'passing vehicles; radar (default 0)' },
      { name: 'telemetry', value: 'N', help: 'real-time positions; radar (default 0)' },
      {
        name: 'picture-kb',
        value: 'N',
        help: 'size of the large picture, at most 11000 (default: as small as possible)',
      },
      { name: 'only-subscribed', help: 'send events only while a subscription asks for them' },
    ],
  },
  {
    title: 'Behaviour',
    rows: [
      { name: 'fault', value: 'FAULT', multiple: true, help: 'NAME[:VALUE][@SHARE], see below; may be repeated' },
      { name: 'reconnect', value: 'S', help: 'first pause before a new attempt; grows to 30 s (default 1)' },
      { name: 'same-connection', help: 'both registration steps on one TCP connection' },
      { name: 'sign', value: 'FORM', help: 'percent (default) or raw: how the signature stands in the URL' },
      { name: 'vendor', value: 'TEXT', help: 'Vendor told at registration (default Uniview)' },
      { name: 'device-type', value: 'TEXT', help: 'DeviceType told at registration (default NVR, IPC or RADAR)' },
      { name: 'algorithm', value: 'TEXT', help: 'Algorithm told at registration (default HMAC-SHA256)' },
      {
        name: 'source',
        value: 'ADDRESS',
        multiple: true,
        help: 'source addresses, e.g. 127.0.0.2,127.0.0.3; each takes a part of the fleet',
      },
      { name: 'insecure', help: 'accept any certificate of a wss:// address' },
      { name: 'zero-mask', help: 'mask frames with zeros: legal, and cheaper for large pictures' },
    ],
  },
  {
    title: 'Run',
    rows: [
      {
        name: 'wait',
        value: 'S',
        help: `give up when devices are not online after S seconds (default ${DEFAULT_WAIT_S}; 0 = never)`,
      },
      { name: 'duration', value: 'S', help: 'stop S seconds after all are online (default: run until Ctrl-C)' },
      { name: 'json', help: 'print a JSON summary at the end; the live lines go to stderr' },
      { name: 'help', help: 'this text' },
    ],
  },
];

const EXAMPLES = `Examples
  npm run fleet -- --devices 1000 --url ws://127.0.0.1:8090
      A thousand recorders whose secrets derive from the default seed; they must be provisioned with the same.
  npm run fleet -- --devices 200 --api http://127.0.0.1:8080 --key KEY --alarms 2 --structures 0.5
      Provisions 200 devices, then sends two alarms and half a picture event per device and minute.
  npm run fleet -- --devices 5000 --profile nvr=20,ipc=70,radar=10 --url ws://10.0.0.1:8090,ws://10.0.0.2:8090
      A mixed fleet over two edges.
  npm run fleet -- --devices 500 --fault slow:2000@10% --fault mute@5 --fault storm:60@20%
      50 slow devices, 5 that never answer, 100 that lose their connection together every minute.
  npm run fleet -- --devices 100 --duration 30 --json > result.json
      Half a minute, then a summary for a script.`;

/** A wrong value; caught in this file and nowhere else. */
class WrongOption extends Error {}

type Values = Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>;

export function parseCommandLine(args: readonly string[], randomSeed: () => string): ParsedCommandLine {
  try {
    const values = readValues(args);
    if (values.help === true) return { status: 'help', text: helpText() };
    return { status: 'run', options: readOptions(values, randomSeed) };
  } catch (error) {
    if (error instanceof WrongOption) return { status: 'wrong', sentence: error.message };
    throw error;
  }
}

export function helpText(): string {
  const width = 26;
  const line = (left: string, help: string) => `  ${left.padEnd(width)}${left.length < width ? '' : ' '}${help}`;
  const sections = SECTIONS.map(({ title, rows }) =>
    [
      title,
      ...rows.map((row) => line(`--${row.name}${row.value === undefined ? '' : ` ${row.value}`}`, row.help)),
    ].join('\n'),
  );
  const faults = FAULT_SYNTAX.map(({ name, value, help }) => {
    const form = value === '' ? '' : value.startsWith('[') ? `[:${value.slice(1)}` : `:${value}`;
    return line(name + form, help);
  });
  return [
    'Simulated LAPI devices: they register at a broker, answer calls, send events and come back when the connection is lost.',
    'Usage: npm run fleet -- [options]',
    ...sections,
    [
      'Faults (SHARE is like 10% or 25 devices; without it all devices; different faults take different devices)',
      ...faults,
    ].join('\n'),
    EXAMPLES,
    'Exit code 0: all went well. 1: devices did not come online within --wait, or provisioning failed. 2: wrong options.\n' +
      'Ctrl-C unregisters and closes all devices; a second Ctrl-C ends at once.',
  ].join('\n\n');
}

function readValues(args: readonly string[]): Values {
  const options: Record<string, { type: 'string' | 'boolean'; multiple?: boolean }> = {};
  for (const row of SECTIONS.flatMap((section) => section.rows)) {
    options[row.name] = { type: row.value === undefined ? 'boolean' : 'string', multiple: row.multiple === true };
  }
  try {
    const { values } = parseArgs({ args: [...args], options, strict: true, allowPositionals: false });
    return values;
  } catch (error) {
    // The parser's first sentence names the option; the rest is advice for other programs.
    const [first = ''] = (error instanceof Error ? error.message : '').split(/\.\s|\n/);
    throw new WrongOption(`${first.replace(/\.$/, '')}; see --help.`);
  }
}

function readOptions(values: Values, randomSeed: () => string): CommandLine {
  const provision = readProvision(values);
  return {
    fleet: {
      devices: whole(values, 'devices', 1, 1_000_000) ?? 10,
      urls: readUrls(values),
      ratePerSecond: whole(values, 'rate', 1, 100_000) ?? 200,
      mix: readMix(text(values, 'profile') ?? 'nvr'),
      channels: whole(values, 'channels', 1, 128) ?? 8,
      prefix: readPrefix(values),
      firstNumber: whole(values, 'first', 0, 9_999_999) ?? 1,
      secretOf: readSecret(values, provision === undefined ? () => DEFAULT_SECRET_SEED : randomSeed),
      faults: readFaults(values),
      rates: readRates(values),
      onlySubscribed: values['only-subscribed'] === true,
      pictureBytes: (whole(values, 'picture-kb', 0, 11_000) ?? 0) * 1024,
      signEncoding: readSign(values),
      sameConnection: values['same-connection'] === true,
      verifyCertificate: values.insecure !== true,
      zeroMask: values['zero-mask'] === true,
      seed: text(values, 'seed') ?? '',
      ...optional('vendor', segment(values, 'vendor')),
      ...optional('deviceType', segment(values, 'device-type')),
      ...optional('algorithm', segment(values, 'algorithm')),
      ...optional('sources', readSources(values)),
      ...optional('reconnect', readReconnect(values)),
    },
    provision,
    waitMs: (decimal(values, 'wait', 0, 86_400) ?? DEFAULT_WAIT_S) * 1000,
    durationMs: inMs(decimal(values, 'duration', 0, 31_536_000)),
    json: values.json === true,
  };
}

function readUrls(values: Values): string[] {
  const urls = list(values, 'url');
  for (const url of urls) {
    if (parseEdge(url) === undefined)
      throw new WrongOption(`--url must be like ws://host:port or wss://host, not "${url}".`);
  }
  return urls.length === 0 ? [DEFAULT_URL] : urls;
}

function readMix(mix: string): Partial<Record<ProfileName, number>> {
  const weights: Partial<Record<ProfileName, number>> = {};
  for (const part of mix.split(',')) {
    const [name, weight = '1', ...rest] = part.split('=');
    const known = PROFILE_NAMES.find((profile) => profile === name);
    if (known === undefined || rest.length > 0 || !/^\d{1,6}$/.test(weight)) {
      throw new WrongOption(`--profile must be nvr, ipc, radar or a mix such as nvr=20,ipc=80, not "${mix}".`);
    }
    weights[known] = Number(weight);
  }
  if (Object.values(weights).every((weight) => weight === 0))
    throw new WrongOption(`--profile "${mix}" leaves no device.`);
  return weights;
}

function readPrefix(values: Values): string {
  const prefix = text(values, 'prefix') ?? DEFAULT_PREFIX;
  if (/^[A-Za-z0-9._:-]{0,12}$/.test(prefix)) return prefix;
  throw new WrongOption(`--prefix must be at most 12 letters, digits or . _ : -, not "${prefix}".`);
}

function readSecret(values: Values, seed: () => string): (code: string) => string {
  const secret = text(values, 'secret');
  const secretSeed = text(values, 'secret-seed');
  if (secret !== undefined && secretSeed !== undefined)
    throw new WrongOption('Use either --secret or --secret-seed, not both.');
  if (secret === '' || secretSeed === '') throw new WrongOption('--secret and --secret-seed must not be empty.');
  if (secret !== undefined) return () => secret;
  const chosen = secretSeed ?? seed();
  return (code) => deriveSecret(chosen, code);
}

function readProvision(values: Values): ProvisionSettings | undefined {
  const api = text(values, 'api');
  if (api === undefined) {
    const alone = ['key', 'tag', 'broker-profile'].find((name) => values[name] !== undefined);
    if (alone !== undefined) throw new WrongOption(`--${alone} has a meaning only together with --api.`);
    return undefined;
  }
  if (!/^https?:\/\/./.test(api) || !URL.canParse(api))
    throw new WrongOption(`--api must be like http://host:port, not "${api}".`);
  return { api, key: text(values, 'key'), tags: list(values, 'tag'), profile: text(values, 'broker-profile') };
}

function readFaults(values: Values): FaultPlan[] {
  return strings(values, 'fault').map((fault) => {
    const parsed = parseFault(fault);
    if (parsed.status === 'wrong') throw new WrongOption(parsed.sentence);
    return parsed.plan;
  });
}

const RATE_OPTIONS: Readonly<Record<EventKind, string>> = {
  alarm: 'alarms',
  structure: 'structures',
  people: 'people',
  health: 'health',
  telemetry: 'telemetry',
  pass: 'pass',
};

function readRates(values: Values): Partial<Record<EventKind, number>> {
  const rates: Partial<Record<EventKind, number>> = {};
  for (const kind of EVENT_KINDS) {
    const perMinute = decimal(values, RATE_OPTIONS[kind], 0, 60_000);
    if (perMinute !== undefined) rates[kind] = perMinute;
  }
  return rates;
}

function readSign(values: Values): 'percent' | 'raw' {
  const form = text(values, 'sign') ?? 'percent';
  if (form === 'percent' || form === 'raw') return form;
  throw new WrongOption(`--sign must be percent or raw, not "${form}".`);
}

function readSources(values: Values): string[] | undefined {
  const sources = list(values, 'source');
  for (const source of sources) {
    if (!/^[0-9.]+$|^[0-9a-fA-F:]+$/.test(source))
      throw new WrongOption(`--source must be IP addresses, not "${source}".`);
  }
  return sources.length === 0 ? undefined : sources;
}

function readReconnect(values: Values): { readonly minMs: number; readonly maxMs: number } | undefined {
  const seconds = decimal(values, 'reconnect', 0.05, 3600);
  return seconds === undefined ? undefined : { minMs: seconds * 1000, maxMs: Math.max(30_000, seconds * 1000) };
}

/** A part of the signed text must not contain the `/` that joins them (G6). */
function segment(values: Values, name: string): string | undefined {
  const value = text(values, name);
  if (value === undefined || /^[^/\p{Cc}]{1,64}$/u.test(value)) return value;
  throw new WrongOption(`--${name} must be 1 to 64 characters without "/".`);
}

function whole(values: Values, name: string, lowest: number, highest: number): number | undefined {
  const value = decimal(values, name, lowest, highest);
  if (value === undefined || Number.isInteger(value)) return value;
  throw new WrongOption(`--${name} must be a whole number from ${lowest} to ${highest}, not "${text(values, name)}".`);
}

function decimal(values: Values, name: string, lowest: number, highest: number): number | undefined {
  const value = text(values, name);
  if (value === undefined) return undefined;
  const number = /^\d+(\.\d+)?$/.test(value) ? Number(value) : Number.NaN;
  if (number >= lowest && number <= highest) return number;
  throw new WrongOption(`--${name} must be a number from ${lowest} to ${highest}, not "${value}".`);
}

function text(values: Values, name: string): string | undefined {
  const value = values[name];
  return typeof value === 'string' ? value : undefined;
}

function strings(values: Values, name: string): string[] {
  const value = values[name];
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [];
}

/** Repeated and comma-separated values alike. */
function list(values: Values, name: string): string[] {
  return strings(values, name)
    .flatMap((value) => value.split(','))
    .map((value) => value.trim())
    .filter((value) => value !== '');
}

function inMs(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : seconds * 1000;
}

function optional<Name extends string, Value>(name: Name, value: Value | undefined): { [K in Name]?: Value } {
  return (value === undefined ? {} : { [name]: value }) as { [K in Name]?: Value };
}
