/** The pages of docs/ that repeat what the code knows: errors and settings. Made from the tables that the services themselves use, so a page
 *  can be wrong only by being old, and a test compares each with what it should be. `npm run docs` writes them. Pure. */

import { ERRORS, errorDefinition } from '@lapi-broker/protocol';
import { describeConfig } from '@lapi-broker/runtime';
import { CommandSettings } from '../../services/command/src/config.ts';
import { EdgeSettings } from '../../services/edge/src/config.ts';

/** @typedef {{ file: string, text: string }} Page `file`: from the root of the repository. */

const NOTE =
  '<!-- Made by `npm run docs` from the code. Edit scripts/lib/generated-docs.mjs or the table it reads, not this file. -->';

/** @returns {readonly Page[]} */
export function generatedDocs() {
  return [
    { file: 'docs/platform/errors.md', text: errorsPage() },
    { file: 'docs/operator/settings.md', text: settingsPage() },
  ];
}

/** A cell holds no line end and no bar.
 *  @param {readonly string[]} cells */
function row(cells) {
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('\n', ' ')).join(' | ')} |`;
}

/** @param {readonly string[]} head
 *  @param {readonly (readonly string[])[]} rows */
function table(head, rows) {
  return [row(head), `|${head.map(() => '---').join('|')}|`, ...rows.map(row)].join('\n');
}

function errorsPage() {
  const codes = /** @type {import('@lapi-broker/protocol').ErrorCode[]} */ (Object.keys(ERRORS));
  const rows = codes.map((code) => {
    const { status, retryable, cause, remedy, retryAfterS } = errorDefinition(code);
    const again = retryable === 'get' ? 'GET only' : retryable ? 'yes' : 'no';
    return [`\`${code}\``, String(status), again, retryAfterS === undefined ? '' : `${retryAfterS} s`, cause, remedy];
  });
  return `${NOTE}

# Errors

When the broker itself cannot do what was asked, it answers with a problem document (RFC 9457, \`application/problem+json\`). When the *device*
said no, you get the device's own answer instead: see [the status table](api.md#what-the-status-says).

\`\`\`json
{
  "type": "urn:lapi-broker:error:device_offline",
  "title": "Device offline",
  "status": 503,
  "detail": "the device has no session",
  "code": "device_offline",
  "error": "device_offline",
  "source": "broker",
  "retryable": true,
  "written": false,
  "executed": "no",
  "cause": "The device is provisioned but has no session; nothing was sent to it.",
  "remedy": "Call again later, or wait for its presence.online event.",
  "requestId": "cs77u8m8oy9i6rqf-12"
}
\`\`\`

${table(
  ['member', 'meaning'],
  [
    ['`source`', '`broker` here, `device` in answers of devices. Look at it first.'],
    [
      '`code`',
      'What happened. Stable: decide by it, never by a text. `error` is the same word under the name that LAPI clients know.',
    ],
    ['`detail`', 'This case, for people. May change.'],
    [
      '`retryable`',
      'May exactly this request be made again without risk? `timeout` and `outcome_unknown` are retryable for GET only, because other methods may have acted.',
    ],
    [
      '`written`',
      'Did bytes of the command reach the socket of the device, or may they have? `false` is certain: the device knows nothing of it.',
    ],
    ['`executed`', 'Commands only: `no` when nothing was written, else `maybe`.'],
    [
      '`id`, `state`',
      'Of a command sent by `POST …/commands`: `failed`, `expired` (never sent), `timed_out` or `unknown`.',
    ],
    ['`errors`', 'With `invalid_request`: each wrong part as `{path, problem}`, such as `body.secret`.'],
    [
      '`requestId`',
      'Also the header `X-Request-Id`. Name it when you report something; the log of the service has it.',
    ],
  ],
)}

\`Retry-After\` comes as a header, in seconds. The one in the table is the usual value; a rate limit says how long it really takes.

## All codes

${table(['code', 'status', 'retryable', 'Retry-After', 'cause', 'remedy'], rows)}

## Handling them

1. \`retryable: true\`: wait for \`Retry-After\`, then send the same request again. Add jitter if many callers do it.
2. \`written: true\`: the device may have acted. Read its state before you repeat anything that changes it.
3. Anything else: the request, the key or the device's provisioning must change first.

A call that should survive a restart of a node or a short absence of the device needs no retry loop: send \`X-LAPI-Connect-Timeout\`
([API](api.md#time-limits)).
`;
}

/** What a hint of the machine would put into the table. */
const DEFAULTS = new Map([['LAPI_NODE_NAME', 'the host name']]);

/** @param {number} bytes */
function inUnits(bytes) {
  for (const [unit, size] of /** @type {const} */ ([
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ])) {
    if (bytes >= size && bytes % size === 0) return `${bytes / size} ${unit}`;
  }
  return '';
}

/** @param {{ name: string, default: string, required: boolean, secret: boolean }} variable */
function defaultOf(variable) {
  const known = DEFAULTS.get(variable.name);
  if (known !== undefined) return known;
  if (variable.required) return '**required**';
  if (variable.default === '') return '–';
  const bytes = variable.name.endsWith('_BYTES') ? inUnits(Number(variable.default)) : '';
  return `\`${variable.default}\`${bytes === '' ? '' : ` (${bytes})`}`;
}

/** @param {import('zod').ZodObject} schema */
function settingsTable(schema) {
  const rows = describeConfig(schema).map((variable) => [
    `\`${variable.name}\``,
    defaultOf(variable),
    variable.expects,
    `${variable.description}${variable.secret ? ' *Secret.*' : ''}`,
  ]);
  return table(['variable', 'default', 'values', 'meaning'], rows);
}

function settingsPage() {
  return `${NOTE}

# Settings

Both services read environment variables and nothing else. A variable that is set to the empty string counts as not set. All problems are
reported together before anything is opened, then the process ends with exit code 2:

\`\`\`
configuration refused:
  LAPI_SHARDS is "0": must be integer 1…256
  LAPI_SECRET_KEY is "***": must be base64
  LAPI_NONCE_KEY not set: required, base64
Run with --help for all settings.
\`\`\`

\`--help\` prints the same tables as below. \`npm start\` has settings of its own (\`npm start -- --help\`) and passes all others on.

## Must be the same everywhere

${table(
  ['variable', 'on', 'else'],
  [
    ['`REDIS_URL`, `LAPI_KEY_PREFIX`', 'all processes', 'two installations that do not see each other'],
    ['`LAPI_SHARDS`', 'all processes, for ever', 'the process refuses to start'],
    ['`LAPI_SECRET_KEY`', 'all processes', 'devices cannot register: their secrets do not open'],
    ['`LAPI_NONCE_KEY`', 'all edges', 'a device that reaches another edge with its second request gets 401 again'],
    [
      '`LAPI_PROFILES_FILE`',
      'all processes',
      'profiles that the API accepts are unknown to an edge, which then uses `default`',
    ],
    [
      '`LAPI_IMAGE_STORE`, `LAPI_IMAGE_S3_…`',
      'all processes',
      '404 for pictures that events refer to, and nobody removes old ones: [pictures](images.md)',
    ],
    [
      '`LAPI_EVENT_RETENTION_SECONDS`, `LAPI_EVENT_RETENTION_BYTES`',
      'all processes',
      'the smallest value wins, because every writer trims',
    ],
    [
      '`LAPI_COMMAND_KEEP_SECONDS`, `LAPI_TIMELINE_SECONDS`',
      'all processes',
      'how long a record is kept depends on which process wrote it last',
    ],
  ],
)}

How to make and change the keys: [keys](operating.md#keys).

## Edge

${settingsTable(EdgeSettings)}

## Command service

${settingsTable(CommandSettings)}
`;
}
