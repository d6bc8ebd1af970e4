/** The command service's settings: the one place that reads its environment. All problems are reported together, before anything opens. */

import { readFileSync } from 'node:fs';
import { DEFAULT_RETENTION } from '@lapi-broker/bus';
import { createProfiles } from '@lapi-broker/device';
import { hasS3Credentials, IMAGE_STORE_VARIABLES, S3_CREDENTIALS_FAULT } from '@lapi-broker/image';
import { parseRedisUrl } from '@lapi-broker/redis';
import { acceptedBy, readConfig, secret } from '@lapi-broker/runtime';
import { z } from 'zod';
import { LIMIT_VARIABLES } from './limits.ts';
import { SINK_VARIABLES, type SinkSettings, sinksOf } from './sink/sink-settings.ts';
import { parseRanges } from './webhook/address-rules.ts';
import { parsePorts } from './webhook/target.ts';

const port = (fallback: number) => z.coerce.number().int().min(0).max(65_535).default(fallback);
const masterKey = () =>
  z.base64().refine((text) => Buffer.from(text, 'base64').length === 32, 'must be base64 of 32 random bytes');

export const CommandSettings = z
  .object({
    LAPI_API_HOST: z.string().default('0.0.0.0').describe('Address of the platform API.'),
    LAPI_API_PORT: port(8080).describe('Port of the platform API; 0 takes any free one.'),
    LAPI_PROBE_HOST: z
      .string()
      .default('127.0.0.1')
      .describe('Address of the probe listener: /livez, /readyz, /metrics.'),
    LAPI_PROBE_PORT: port(9080).describe('Port of the probe listener; 0 takes any free one.'),
    REDIS_URL: z
      .string()
      .superRefine(acceptedBy(parseRedisUrl))
      .default('redis://127.0.0.1:6379')
      .describe('redis://host:port, rediss://…, redis+sentinel://host:port,…/name or redis+cluster://host:port,….'),
    LAPI_KEY_PREFIX: z
      .string()
      .regex(/^[a-z0-9-]{1,32}$/, 'must be 1–32 of a–z 0–9 -')
      .default('lapi')
      .describe('Prefix of all keys and channels in Redis.'),
    LAPI_SHARDS: z.coerce
      .number()
      .int()
      .min(1)
      .max(256)
      .default(16)
      .describe('Key-space partitions; fixed at first start.'),
    LAPI_SECRET_KEY: secret(masterKey()).describe(
      'Master key that seals device secrets: base64 of 32 random bytes, the same on all processes.',
    ),
    LAPI_SECRET_KEY_PREVIOUS: secret(masterKey()).optional().describe('The master key before the last rotation.'),
    LAPI_API_KEY: secret(z.string().regex(/^[A-Za-z0-9._~+/=-]{1,256}$/, 'must be 1–256 of A–Z a–z 0–9 . _ ~ + / = -'))
      .optional()
      .describe(
        'An API key with the admin scope, stored as a hash at start, so that a new installation has a first one.',
      ),
    LAPI_ALLOW_WEAK_SECRETS: z
      .stringbool()
      .default(false)
      .describe('Accept device secrets and a LAPI_API_KEY that can be guessed. For tests only.'),
    LAPI_PROFILES_FILE: z
      .string()
      .superRefine(acceptedBy((file) => createProfiles(readJson(file))))
      .optional()
      .describe('JSON file with device profiles that add to the built-in ones; the same file as on the edges.'),
    LAPI_EVENT_RETENTION_SECONDS: z.coerce
      .number()
      .int()
      .min(60)
      .max(30 * 24 * 3_600)
      .default(DEFAULT_RETENTION.maxAgeMs / 1_000)
      .describe('How long events are kept for replay; the same number as on the edges.'),
    LAPI_EVENT_RETENTION_BYTES: z.coerce
      .number()
      .int()
      .min(1024 * 1024)
      .max(1024 ** 4)
      .default(DEFAULT_RETENTION.maxBytes)
      .describe(
        'Events kept per shard for replay, in bytes: their data and 256 for each; the oldest go first. The same number as on the edges.',
      ),
    LAPI_TIMELINE_SECONDS: z.coerce
      .number()
      .int()
      .min(0)
      .max(30 * 24 * 3_600)
      .default(86_400)
      .describe(
        'How long the timeline of a device is kept after its last entry; the same number as on the edges. 0 keeps none.',
      ),
    LAPI_CONFIRM_EVENTS: z
      .enum(['auto', 'off'])
      .default('auto')
      .describe(
        'auto: where Redis has replicas (Sentinel, Cluster), an event of the broker itself (of a job, a schedule) counts as stored once a replica has it; off: a failover may forget the last ones.',
      ),
    LAPI_CONFIRM_COMMANDS: z
      .enum(['auto', 'off'])
      .default('auto')
      .describe(
        'auto: where Redis has replicas (Sentinel, Cluster), a queued command is accepted once a replica has it, else 503; off: a failover may forget the last ones.',
      ),
    LAPI_SUBSCRIPTIONS: z.coerce
      .number()
      .int()
      .min(0)
      .max(500)
      .default(200)
      .describe(
        'Durable subscriptions at most, those of webhooks and sinks included; the same number on all processes.',
      ),
    LAPI_WEBHOOK_ALLOW: z
      .string()
      .superRefine(acceptedBy(parseRanges))
      .default('')
      .describe(
        'Addresses and ranges that are not public and may be those of webhooks all the same, with commas between: 10.1.0.0/16,fd00:1::/32.',
      ),
    LAPI_WEBHOOK_ALLOW_HTTP: z
      .stringbool()
      .default(false)
      .describe('Let the URL of a webhook begin with http:// as well (port 80). Events then travel unencrypted.'),
    LAPI_WEBHOOK_PORTS: z
      .string()
      .superRefine(acceptedBy(parsePorts))
      .default('')
      .describe('Ports that the URL of a webhook may have beside the usual one, with commas between: 8443,9443.'),
    LAPI_WEBHOOK_DISABLE_HOURS: z.coerce
      .number()
      .int()
      .min(1)
      .max(720)
      .default(24)
      .describe('A webhook whose requests did nothing but fail for so many hours is switched off.'),
    ...SINK_VARIABLES,
    ...IMAGE_STORE_VARIABLES,
    LAPI_IMAGE_RETENTION_HOURS: z.coerce
      .number()
      .int()
      .min(1)
      .max(24 * 366)
      .default(24)
      .describe(
        'How long pictures are kept at least; those of a whole hour are then removed together, by one process.',
      ),
    LAPI_DRAIN_SECONDS: z.coerce
      .number()
      .int()
      .min(1)
      .max(3_600)
      .default(20)
      .describe('After SIGTERM: how long finishing the calls in progress may take.'),
    LAPI_LOG_LEVEL: z
      .enum(['fatal', 'error', 'warn', 'info', 'debug', 'silent'])
      .default('info')
      .describe('Least level that is logged.'),
    ...LIMIT_VARIABLES,
  })
  .refine(
    ({ LAPI_API_KEY, LAPI_ALLOW_WEAK_SECRETS }) => LAPI_ALLOW_WEAK_SECRETS || (LAPI_API_KEY?.length ?? 32) >= 32,
    {
      path: ['LAPI_API_KEY'],
      message: 'must be at least 32 random characters (LAPI_ALLOW_WEAK_SECRETS=true accepts any, for tests)',
    },
  )
  .refine(({ LAPI_BODIES_BYTES, LAPI_DIRECT_BODY_BYTES }) => LAPI_BODIES_BYTES >= LAPI_DIRECT_BODY_BYTES, {
    path: ['LAPI_BODIES_BYTES'],
    message: 'must be at least LAPI_DIRECT_BODY_BYTES, else a body of that size could never pass',
  })
  .refine(hasS3Credentials, S3_CREDENTIALS_FAULT);

export type CommandConfig = Readonly<z.infer<typeof CommandSettings>> & {
  readonly profileOverrides: unknown;
  readonly sinks: readonly SinkSettings[];
};

/** Throws ConfigError that lists every problem. */
export function readCommandConfig(env: NodeJS.ProcessEnv): CommandConfig {
  const config = readConfig(CommandSettings, env);
  const file = config.LAPI_PROFILES_FILE;
  return Object.freeze({
    ...config,
    profileOverrides: file === undefined ? {} : readJson(file),
    sinks: sinksOf(config),
  });
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}
