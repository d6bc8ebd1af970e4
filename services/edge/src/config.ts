/** The edge's settings: the one place that reads its environment. All problems are reported together, before anything opens. */

import { readFileSync } from 'node:fs';
import { BlockList, isIPv6 } from 'node:net';
import { hostname } from 'node:os';
import { DEFAULT_RETENTION } from '@lapi-broker/bus';
import { createProfiles } from '@lapi-broker/device';
import { hasS3Credentials, IMAGE_STORE_VARIABLES, S3_CREDENTIALS_FAULT } from '@lapi-broker/image';
import { isNodeName } from '@lapi-broker/protocol';
import { parseRedisUrl } from '@lapi-broker/redis';
import { acceptedBy, ConfigError, readConfig } from '@lapi-broker/runtime';
import { z } from 'zod';

const port = (fallback: number) => z.coerce.number().int().min(0).max(65_535).default(fallback);
const masterKey = () =>
  z.base64().refine((text) => Buffer.from(text, 'base64').length === 32, 'must be base64 of 32 random bytes');
const nonceKey = () =>
  z.base64().refine((text) => Buffer.from(text, 'base64').length >= 32, 'must be base64 of at least 32 random bytes');

export const EdgeSettings = z
  .object({
    LAPI_NODE_NAME: z
      .string()
      .refine(isNodeName, 'must be 1–63 letters, digits or -')
      .default(
        hostname()
          .replace(/[^A-Za-z0-9-]/g, '-')
          .slice(0, 63),
      )
      .describe('Name of this node, unique among the edge nodes. A restart keeps the name and gets a new incarnation.'),
    LAPI_DEVICE_HOST: z.string().default('0.0.0.0').describe('Address on which devices connect.'),
    LAPI_DEVICE_PORT: port(8090).describe('Port on which devices connect; 0 takes any free one.'),
    LAPI_DEVICE_TLS_CERT: z
      .string()
      .optional()
      .describe('Certificate file; with LAPI_DEVICE_TLS_KEY the device listener speaks wss.'),
    LAPI_DEVICE_TLS_KEY: z.string().optional().describe('Private key file of the certificate.'),
    LAPI_PEER_PROBES: z
      .string()
      .superRefine(acceptedBy(readPeers))
      .default('')
      .transform(readPeers)
      .describe(
        'Comma-separated http://host:port of the probe listeners of the other edges, or of a name that resolves to all of them. An edge that alone has lost Redis then lets its devices go to the others; empty: it keeps them.',
      ),
    LAPI_PUBLIC_ADDRESS: z
      .string()
      .default('')
      .describe('Where devices reach this node, for people to read in GET /v1/nodes.'),
    LAPI_PROBE_HOST: z
      .string()
      .default('127.0.0.1')
      .describe('Address of the probe listener: /livez, /readyz, /metrics.'),
    LAPI_PROBE_PORT: port(9090).describe('Port of the probe listener; 0 takes any free one.'),
    REDIS_URL: z
      .string()
      .superRefine(acceptedBy(parseRedisUrl))
      .default('redis://127.0.0.1:6379')
      .describe('redis://host:port, rediss://…, redis+sentinel://host:port,…/name or redis+cluster://host:port,….'),
    LAPI_CONFIRM_CLAIMS: z
      .enum(['auto', 'off'])
      .default('auto')
      .describe(
        'auto: where Redis has replicas (Sentinel, Cluster), a registration counts once a replica has it, else 503; off: a failover may forget the last ones.',
      ),
    LAPI_CONFIRM_COMMANDS: z
      .enum(['auto', 'off'])
      .default('auto')
      .describe(
        'auto: where Redis has replicas (Sentinel, Cluster), a queued command is written to its device once a replica knows that it is; off: a failover may make the broker send one twice.',
      ),
    LAPI_LANE_WINDOW: z.coerce
      .number()
      .int()
      .min(1)
      .max(8)
      .default(1)
      .describe('Queued commands of one lane of a device that may be unanswered at a time.'),
    LAPI_COMMAND_KEEP_SECONDS: z.coerce
      .number()
      .int()
      .min(60)
      .max(30 * 24 * 3_600)
      .default(86_400)
      .describe('How long the record of a command is kept after its end; the same number as on the command services.'),
    LAPI_KEY_PREFIX: z
      .string()
      .regex(/^[a-z0-9-]{1,32}$/)
      .default('lapi')
      .describe('Prefix of all keys and channels in Redis.'),
    LAPI_SHARDS: z.coerce
      .number()
      .int()
      .min(1)
      .max(256)
      .default(16)
      .describe('Key-space partitions; fixed at first start.'),
    LAPI_SECRET_KEY: masterKey()
      .describe('Master key that opens device secrets: base64 of 32 random bytes, the same on all processes.')
      .meta({ secret: true }),
    LAPI_SECRET_KEY_PREVIOUS: masterKey()
      .optional()
      .describe('The master key before the last rotation.')
      .meta({ secret: true }),
    LAPI_NONCE_KEY: nonceKey()
      .describe('Key of the registration nonces: base64 of at least 32 random bytes, the same on all edges.')
      .meta({ secret: true }),
    LAPI_NONCE_KEY_PREVIOUS: nonceKey()
      .optional()
      .describe('The nonce key before the last rotation.')
      .meta({ secret: true }),
    LAPI_NONCE_TTL_SECONDS: z.coerce
      .number()
      .int()
      .min(30)
      .max(300)
      .default(120)
      .describe('How long a nonce may be used.'),
    LAPI_CHALLENGE_SHAPE: z
      .enum(['union', 'bare', 'wrapped'])
      .default('union')
      .describe('Body of the 401 on this listener.'),
    LAPI_PROFILES_FILE: z
      .string()
      .superRefine(acceptedBy((file) => createProfiles(readJson(file))))
      .optional()
      .describe('JSON file with device profiles that add to or override the built-in ones.'),
    LAPI_LIVENESS_FLOOR_SECONDS: z.coerce
      .number()
      .min(1)
      .default(90)
      .describe('A silent device is dropped after 2.5 times its keepalive interval, but not before this.'),
    LAPI_MAX_SESSIONS: z.coerce
      .number()
      .int()
      .min(1)
      .default(50_000)
      .describe('Devices this node takes; further ones get 503.'),
    LAPI_REGISTRATIONS_PER_SECOND: z.coerce
      .number()
      .min(1)
      .default(500)
      .describe(
        'Admission: first GETs answered per second, with a burst of twice as many; beyond it 503 with Retry-After.',
      ),
    LAPI_CONNECTIONS_PER_ADDRESS: z.coerce
      .number()
      .int()
      .min(0)
      .default(256)
      .describe(
        'Open unauthenticated connections per address; size it for the largest site behind one NAT. 0 = no limit.',
      ),
    LAPI_TRUSTED_PROXIES: z
      .string()
      .superRefine(acceptedBy(checkRanges))
      .default('')
      .transform((text) =>
        text
          .split(',')
          .map((range) => range.trim())
          .filter((range) => range !== ''),
      )
      .describe(
        'Comma-separated addresses or CIDR ranges of balancers whose PROXY protocol (v2) header names the real address of a device.',
      ),
    LAPI_UNAUTHENTICATED_CONNECTIONS: z.coerce
      .number()
      .int()
      .min(0)
      .default(10_000)
      .describe('Open unauthenticated connections of all addresses together. 0 = no limit.'),
    LAPI_FAILURES_BEFORE_DELAY: z.coerce
      .number()
      .int()
      .min(1)
      .default(5)
      .describe('Failed registrations per minute of one address or code after which failing answers are delayed.'),
    LAPI_FAILURES_BEFORE_REFUSAL: z.coerce
      .number()
      .int()
      .min(1)
      .default(60)
      .describe('Failed registrations per minute of one address after which it gets 429.'),
    LAPI_EVENT_RETENTION_SECONDS: z.coerce
      .number()
      .int()
      .min(60)
      .max(30 * 24 * 3_600)
      .default(DEFAULT_RETENTION.maxAgeMs / 1_000)
      .describe('How long events are kept for replay; the smallest value of all processes wins.'),
    LAPI_EVENT_RETENTION_BYTES: z.coerce
      .number()
      .int()
      .min(1024 * 1024)
      .max(1024 ** 4)
      .default(DEFAULT_RETENTION.maxBytes)
      .describe(
        'Events kept per shard for replay, in bytes: their data and 256 for each; the oldest go first. The smallest value of all processes wins.',
      ),
    LAPI_CONFIRM_EVENTS: z
      .enum(['auto', 'off'])
      .default('auto')
      .describe(
        'auto: where Redis has replicas (Sentinel, Cluster), the event of a device is answered with success once a replica has it, else with an error, after which the device sends it again; off: a failover may forget the last ones.',
      ),
    ...IMAGE_STORE_VARIABLES,
    LAPI_IMAGE_THRESHOLD_BYTES: z.coerce
      .number()
      .int()
      .min(1_024)
      .default(4_096)
      .describe('Base64 text from this length on is taken out of events as a picture; shorter text stays in the data.'),
    LAPI_TIMELINE_SECONDS: z.coerce
      .number()
      .int()
      .min(0)
      .max(30 * 24 * 3_600)
      .default(86_400)
      .describe(
        'How long the timeline of a device is kept after its last entry; the same number as on the command services. 0 keeps none.',
      ),
    LAPI_DRAIN_SECONDS: z.coerce
      .number()
      .int()
      .min(1)
      .max(3_600)
      .default(60)
      .describe(
        'After SIGTERM, or a drain over the API that does not say: how long it may take until no device is left.',
      ),
    LAPI_DRAIN_DELAY_SECONDS: z.coerce
      .number()
      .min(0)
      .max(600)
      .default(5)
      .describe(
        'Part of it, at most half: how long a node that is to drain goes on taking registrations, so that balancers hear of it first.',
      ),
    LAPI_REBALANCE: z
      .enum(['auto', 'off'])
      .default('auto')
      .describe(
        'auto: a node with clearly more devices than the others lets go of the surplus, slowly, idle devices first; off: devices stay where they are.',
      ),
    LAPI_LOG_LEVEL: z
      .enum(['fatal', 'error', 'warn', 'info', 'debug', 'silent'])
      .default('info')
      .describe('Least level that is logged.'),
  })
  .refine(hasS3Credentials, S3_CREDENTIALS_FAULT);

export type EdgeConfig = Readonly<z.infer<typeof EdgeSettings>> & { readonly profileOverrides: unknown };

/** Throws ConfigError that lists every problem. */
export function readEdgeConfig(env: NodeJS.ProcessEnv): EdgeConfig {
  const config = readConfig(EdgeSettings, env);
  refuseHalfTls(config);
  const file = config.LAPI_PROFILES_FILE;
  return Object.freeze({
    ...config,
    profileOverrides: file === undefined ? {} : readJson(file),
  });
}

/** One file alone would leave the listener without TLS, unnoticed (S8). */
function refuseHalfTls({
  LAPI_DEVICE_TLS_CERT: cert,
  LAPI_DEVICE_TLS_KEY: key,
}: Pick<z.infer<typeof EdgeSettings>, 'LAPI_DEVICE_TLS_CERT' | 'LAPI_DEVICE_TLS_KEY'>): void {
  if ((cert === undefined) === (key === undefined)) return;
  const [missing, given] = cert === undefined ? ['CERT', 'KEY'] : ['KEY', 'CERT'];
  throw new ConfigError([
    {
      variable: `LAPI_DEVICE_TLS_${missing}`,
      value: undefined,
      expectation: `required, because LAPI_DEVICE_TLS_${given} is set`,
    },
  ]);
}

/** Throws for what is no base URL with a port. */
function readPeers(text: string): readonly string[] {
  const urls = text.split(',').map((url) => url.trim());
  return urls
    .filter((url) => url !== '')
    .map((url) => {
      const { protocol, origin } = new URL(url);
      if (protocol !== 'http:' || !/:\d+\/?$/.test(url)) throw new TypeError(`${url}: http://host:port is expected`);
      return origin;
    });
}

/** Throws for what is no address and no CIDR range. */
function checkRanges(text: string): void {
  const list = new BlockList();
  for (const range of text.split(',')) {
    const [address = '', bits = isIPv6(address) ? '128' : '32'] = range.trim().split('/');
    if (address !== '') list.addSubnet(address, Number(bits), isIPv6(address) ? 'ipv6' : 'ipv4');
  }
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}
