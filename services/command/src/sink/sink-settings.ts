/** Which sinks the operator wants: one NATS and one MQTT from variables of their own, any number from a JSON file. Every problem is told
 *  together with all others of the configuration, and never with a URL in it, which may hold a password. */

import { readFileSync } from 'node:fs';
import { acceptedBy, secret } from '@lapi-broker/runtime';
import { MQTT_URL, NATS_URL, parseAddress, parseSinkUrl } from '@lapi-broker/sink';
import { z } from 'zod';
import { type FilterTerms, parseFilter } from '../event/filter.ts';

export interface SinkSettings {
  readonly name: string;
  readonly type: 'nats' | 'mqtt';
  readonly url: string;
  /** Template of the subject or topic. */
  readonly address: string;
  readonly filter: FilterTerms;
  /** Where a sink of this name begins that never was there. */
  readonly from: 'now' | 'start';
  readonly createStream: string | undefined;
  readonly credentialsFile: string | undefined;
  readonly caFile: string | undefined;
  readonly certFile: string | undefined;
  readonly keyFile: string | undefined;
}

const SUBJECT = 'lapi.events.{code}.{kind}';
const TOPIC = 'lapi/{code}/{kind}';
const MAX_SINKS = 16;
const LISTS = { device: 'devices', kind: 'kinds', tag: 'tags' } as const;

const natsUrl = () => z.string().superRefine(acceptedBy((text) => parseSinkUrl(text, NATS_URL)));
const mqttUrl = () => z.string().superRefine(acceptedBy((text) => parseSinkUrl(text, MQTT_URL)));
const subject = () =>
  z
    .string()
    .superRefine(acceptedBy((text) => parseAddress(text, '.')))
    .default(SUBJECT);
const topic = () =>
  z
    .string()
    .superRefine(acceptedBy((text) => parseAddress(text, '/')))
    .default(TOPIC);
const filterQuery = () => z.string().superRefine(acceptedBy(parseFilterQuery)).default('');
const from = () => z.enum(['now', 'start']).default('now');
const streamName = () =>
  z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,64}$/, 'must be 1–64 of A–Z a–z 0–9 - _')
    .optional();

const FILTER_NOTE =
  'Only these, as in a query of GET /v1/events: `kind=alarm.*,presence.*&tag=gate&device=cam-1`; nothing = all.';
const FROM_NOTE =
  'Where a sink begins that never was there: `now`, or `start` for all that is kept. Later it goes on where it was.';

export const SINK_VARIABLES = {
  LAPI_SINK_NATS_URL: secret(natsUrl())
    .optional()
    .describe(
      'Publishes all events to NATS JetStream: nats://host:4222, nats://user:password@host:4222, nats://token@host:4222, tls://…, several as nats://a:4222,b:4222. Needs the package @lapi-broker/sink-nats.',
    ),
  LAPI_SINK_NATS_SUBJECT: subject().describe('Subject of a message; the dots of a kind are levels of it.'),
  LAPI_SINK_NATS_FILTER: filterQuery().describe(FILTER_NOTE),
  LAPI_SINK_NATS_FROM: from().describe(FROM_NOTE),
  LAPI_SINK_NATS_CREATE_STREAM: streamName().describe(
    'Makes a stream of this name for the subjects where there is none of the name: files, one day, no other limit. Without it the stream must be there.',
  ),
  LAPI_SINK_NATS_CREDENTIALS_FILE: z.string().optional().describe('A .creds file of NATS (NKey and JWT).'),
  LAPI_SINK_MQTT_URL: secret(mqttUrl())
    .optional()
    .describe(
      'Publishes all events to an MQTT 5 broker: mqtt://host:1883, mqtt://user:password@host:1883, mqtts://host:8883. Needs the package @lapi-broker/sink-mqtt.',
    ),
  LAPI_SINK_MQTT_TOPIC: topic().describe('Topic of a message; the dots of a kind become levels of it.'),
  LAPI_SINK_MQTT_FILTER: filterQuery().describe(FILTER_NOTE),
  LAPI_SINK_MQTT_FROM: from().describe(FROM_NOTE),
  LAPI_SINKS_FILE: z
    .string()
    .superRefine(acceptedBy(readSinksFile))
    .optional()
    .describe('JSON file with further sinks, where one of a kind is not enough or TLS needs files of its own.'),
} as const;

type SinkVariables = z.infer<z.ZodObject<typeof SINK_VARIABLES>>;

const file = () => z.string().min(1).optional();
const common = {
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/, 'must be 1–32 of A–Z a–z 0–9 . _ -'),
  filter: z
    .strictObject({
      devices: z.array(z.string()).optional(),
      kinds: z.array(z.string()).optional(),
      tags: z.array(z.string()).optional(),
    })
    .superRefine((terms, context) => {
      const parsed = parseFilter(terms);
      if (parsed.status === 'invalid') context.addIssue({ code: 'custom', message: parsed.detail });
    })
    .default({}),
  from: from(),
  caFile: file(),
  certFile: file(),
  keyFile: file(),
};
const SinkFile = z
  .array(
    z.discriminatedUnion('type', [
      z.strictObject({
        ...common,
        type: z.literal('nats'),
        url: natsUrl(),
        subject: subject(),
        createStream: streamName(),
        credentialsFile: file(),
      }),
      z.strictObject({ ...common, type: z.literal('mqtt'), url: mqttUrl(), topic: topic() }),
    ]),
  )
  .max(MAX_SINKS);

/** Of variables that were accepted. */
export function sinksOf(variables: SinkVariables): readonly SinkSettings[] {
  const plain = { caFile: undefined, certFile: undefined, keyFile: undefined };
  const { LAPI_SINK_NATS_URL: nats, LAPI_SINK_MQTT_URL: mqtt, LAPI_SINKS_FILE: path } = variables;
  const sinks: SinkSettings[] = [];
  if (nats !== undefined) {
    sinks.push({
      ...plain,
      name: 'nats',
      type: 'nats',
      url: nats,
      address: variables.LAPI_SINK_NATS_SUBJECT,
      filter: parseFilterQuery(variables.LAPI_SINK_NATS_FILTER),
      from: variables.LAPI_SINK_NATS_FROM,
      createStream: variables.LAPI_SINK_NATS_CREATE_STREAM,
      credentialsFile: variables.LAPI_SINK_NATS_CREDENTIALS_FILE,
    });
  }
  if (mqtt !== undefined) {
    sinks.push({
      ...plain,
      name: 'mqtt',
      type: 'mqtt',
      url: mqtt,
      address: variables.LAPI_SINK_MQTT_TOPIC,
      filter: parseFilterQuery(variables.LAPI_SINK_MQTT_FILTER),
      from: variables.LAPI_SINK_MQTT_FROM,
      createStream: undefined,
      credentialsFile: undefined,
    });
  }
  return path === undefined ? sinks : [...sinks, ...readSinksFile(path)];
}

/** Throws an error that lists what is wrong. The names of the sinks that have variables are taken, whether they are used or not. */
function readSinksFile(path: string): readonly SinkSettings[] {
  const parsed = SinkFile.safeParse(readJson(path));
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path: where, message }) => `${where.join('.')}: ${message}`);
    throw new Error(`a sink in it is not right: ${problems.join('; ')}`);
  }
  const names = ['nats', 'mqtt', ...parsed.data.map(({ name }) => name)];
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new Error(`the name ${twice} is taken`);
  return parsed.data.map((sink) => {
    const { name, url, filter, caFile, certFile, keyFile } = sink;
    const shared = { name, url, filter, from: sink.from, caFile, certFile, keyFile };
    return sink.type === 'nats'
      ? {
          ...shared,
          type: sink.type,
          address: sink.subject,
          createStream: sink.createStream,
          credentialsFile: sink.credentialsFile,
        }
      : { ...shared, type: sink.type, address: sink.topic, createStream: undefined, credentialsFile: undefined };
  });
}

/** The message of JSON.parse would show a part of the file. */
function readJson(path: string): unknown {
  const text = readFileSync(path, 'utf8');
  try {
    return JSON.parse(text);
  } catch {
    throw new Error('the file is not JSON');
  }
}

/** Throws an error that says what is wrong. */
function parseFilterQuery(query: string): FilterTerms {
  const terms = { devices: [] as string[], kinds: [] as string[], tags: [] as string[] };
  for (const [name, value] of new URLSearchParams(query)) {
    const list = Object.hasOwn(LISTS, name) ? LISTS[name as keyof typeof LISTS] : undefined;
    const given = value.split(',').filter((term) => term !== '');
    if (list === undefined) throw new Error(`${name.slice(0, 64)} is none of device, kind, tag`);
    if (given.length === 0) throw new Error(`${name} is empty; leave it out to get all`);
    terms[list].push(...given);
  }
  const parsed = parseFilter(terms);
  if (parsed.status === 'invalid') throw new Error(parsed.detail);
  return terms;
}
