import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { DeviceCode, Epoch } from '@lapi-broker/protocol';
import { Ajv, type ValidateFunction } from 'ajv';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { describe, expect, it } from 'vitest';
import { OutgoingEvent } from '../event/outgoing-event.ts';
import { record } from '../testing/event-record.ts';
import { writeEvents, writeTest } from '../webhook/message.ts';
import { createAsyncApi } from './asyncapi.ts';
import { EVENT_KINDS, EventView, eventJsonSchema } from './event-schema.ts';
import { BROKER_MESSAGES, WEBHOOK_MESSAGES } from './message-schema.ts';
import { ClientMessage } from './stream-message.ts';

const document = createAsyncApi('1.2.3');

function schemaOf(schema: object): ValidateFunction {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  formats.default(ajv);
  return ajv.compile(schema);
}

function walk(value: unknown, visit: (name: string, member: unknown) => void): void {
  if (typeof value !== 'object' || value === null) return;
  for (const [name, member] of Object.entries(value)) {
    visit(name, member);
    walk(member, visit);
  }
}

describe('the AsyncAPI document', () => {
  it('is one by the official schema of AsyncAPI 3.0', () => {
    const official = createRequire(import.meta.url)('@asyncapi/specs/schemas/3.0.0.json') as object;
    // It brings the schema of draft-07 along, so that of Ajv stays away.
    const ajv = new Ajv({ strict: false, allErrors: true, meta: false, validateSchema: false });
    formats.default(ajv);
    const valid = ajv.validate(official, structuredClone(document));
    expect(ajv.errors ?? []).toEqual([]);
    expect(valid).toBe(true);
    // The schema can fail.
    expect(ajv.validate(official, { ...document, operations: { x: { action: 'shout' } } })).toBe(false);
  });

  it('has no reference that leads nowhere', () => {
    let references = 0;
    walk(document, (name, member) => {
      if (name !== '$ref') return;
      references += 1;
      const path = String(member).replace('#/', '').split('/');
      const found = path.reduce<unknown>((at, step) => (at as Record<string, unknown> | undefined)?.[step], document);
      expect(found, String(member)).toBeDefined();
    });
    expect(references).toBeGreaterThan(20);
  });

  it('has every message of the socket, in both directions, and of webhooks, each in words', () => {
    const { events, stream, webhook } = document.channels;
    const clients = ClientMessage.options.map(({ shape }) => shape.type.value);
    expect(Object.keys(stream?.messages ?? {})).toEqual([...Object.keys(BROKER_MESSAGES), ...clients]);
    expect(Object.keys(webhook?.messages ?? {})).toEqual(Object.keys(WEBHOOK_MESSAGES));
    for (const channel of [events, stream, webhook]) {
      for (const [name, { summary }] of Object.entries(channel?.messages ?? {})) expect(summary, name).toMatch(/\w/);
    }
  });

  it('describes what webhooks send, events, gaps and tests', () => {
    const event = new OutgoingEvent(7, { ms: 1735689600000, seq: 1 }, record({ data: Buffer.from('{"a":1}') }));
    const gap = { shard: 7, from: '07-1-1', to: '07-2-9', count: 7 };
    const deliveries = [
      { ackId: 'a', attempt: 1, message: { type: 'event', event } },
      { ackId: 'b', attempt: 1, message: { type: 'gap', gap } },
    ] as const;
    const events: unknown = JSON.parse(writeEvents('w1', deliveries, 0).body.toString());
    const test: unknown = JSON.parse(writeTest('w1', 'nonce', 0).body.toString());
    expect(WEBHOOK_MESSAGES.events.parse(events)).toEqual(events);
    expect(WEBHOOK_MESSAGES['webhook.test'].parse(test)).toEqual(test);
  });

  it('names each message as the literal in its `type`', () => {
    for (const [type, schema] of [...Object.entries(BROKER_MESSAGES), ...Object.entries(WEBHOOK_MESSAGES)]) {
      for (const each of 'options' in schema ? schema.options : [schema]) expect(each.shape.type.value).toBe(type);
    }
  });
});

it('every kind is in docs/platform/events.md, by itself or by the name that the device gives it', () => {
  const text = readFileSync(new URL('../../../../docs/platform/events.md', import.meta.url), 'utf8');
  expect(EVENT_KINDS.length).toBeGreaterThan(40);
  const unknown = EVENT_KINDS.filter(
    ({ kind, means }) => !text.includes(`\`${kind}\``) && !text.includes(/`\w+`/.exec(means)?.[0] ?? kind),
  );
  expect(unknown).toEqual([]);
});

describe('the JSON Schema of an event', () => {
  const validate = schemaOf(eventJsonSchema());
  const image = { path: '/A/0/Data', contentType: 'image/jpeg', bytes: 9, sha256: '0'.repeat(64) };
  const view = (part: Parameters<typeof record>[0] = {}): Record<string, unknown> =>
    JSON.parse(new OutgoingEvent(7, { ms: 1735689600000, seq: 1 }, record(part)).json().toString());

  it('takes what the broker writes, with and without everything that may be absent', () => {
    const full = view({
      seq: 3,
      epoch: 1735689600000001 as Epoch,
      tags: ['a'],
      dedupKey: 'k',
      images: JSON.stringify([
        { ...image, url: '/v1/images/x' },
        { ...image, imageDropped: true },
      ]),
    });
    const own = view({ code: '' as DeviceCode, kind: 'job.finished', url: '', seq: 0, epoch: 0 as Epoch });
    for (const event of [view(), full, own]) {
      validate(event);
      expect(validate.errors ?? []).toEqual([]);
    }
  });

  it('names the members that the broker writes, in their order, and misses none', () => {
    expect(Object.keys(view())).toEqual(Object.keys(EventView.shape));
    for (const name of Object.keys(EventView.shape)) {
      const { [name]: _, ...rest } = view();
      expect(validate(rest), name).toBe(false);
    }
  });

  it.each([
    ['an id of another form', { id: '7' }],
    ['a time that is none', { at: 'yesterday' }],
    ['a kind with blanks', { kind: 'alarm. x' }],
    ['a picture that is neither kept nor dropped', { images: [image] }],
    ['a dedupKey that is empty for absent', { dedupKey: undefined }],
  ])('refuses %s', (_what, part) => {
    expect(validate(JSON.parse(JSON.stringify({ ...view(), ...part })))).toBe(false);
  });
});
