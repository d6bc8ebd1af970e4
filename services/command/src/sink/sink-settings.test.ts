import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { configHelp, readConfig } from '@lapi-broker/runtime';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { loadPackage, openSink } from './parts.ts';
import { SINK_VARIABLES, sinksOf } from './sink-settings.ts';

const Settings = z.object(SINK_VARIABLES);
const read = (env: Record<string, string>) => sinksOf(readConfig(Settings, env));
let dir = '';
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'lapi-sinks-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});
function file(content: unknown): string {
  const name = path.join(dir, 'sinks.json');
  writeFileSync(name, typeof content === 'string' ? content : JSON.stringify(content));
  return name;
}

describe('settings of sinks', () => {
  test('no URL, no sink', () => {
    expect(read({ LAPI_SINK_NATS_FILTER: 'kind=alarm.*' })).toEqual([]);
  });

  test('one of each kind from variables, further ones from a file', () => {
    const sinks = read({
      LAPI_SINK_NATS_URL: 'nats://u:p@a,b',
      LAPI_SINK_NATS_FILTER: 'kind=alarm.*,presence.*&tag=gate&device=cam-1',
      LAPI_SINK_NATS_FROM: 'start',
      LAPI_SINK_NATS_CREATE_STREAM: 'LAPI',
      LAPI_SINK_MQTT_URL: 'mqtts://a',
      LAPI_SINKS_FILE: file([
        { name: 'archive', type: 'nats', url: 'tls://a', filter: { kinds: ['structure'] }, caFile: '/ca.pem' },
        { name: 'site-2', type: 'mqtt', url: 'mqtt://b', topic: 'x/{code}' },
      ]),
    });
    expect(sinks.map(({ name, type, url, address, filter, from }) => [name, type, url, address, filter, from])).toEqual(
      [
        [
          'nats',
          'nats',
          'nats://u:p@a,b',
          'lapi.events.{code}.{kind}',
          { devices: ['cam-1'], kinds: ['alarm.*', 'presence.*'], tags: ['gate'] },
          'start',
        ],
        ['mqtt', 'mqtt', 'mqtts://a', 'lapi/{code}/{kind}', { devices: [], kinds: [], tags: [] }, 'now'],
        ['archive', 'nats', 'tls://a', 'lapi.events.{code}.{kind}', { kinds: ['structure'] }, 'now'],
        ['site-2', 'mqtt', 'mqtt://b', 'x/{code}', {}, 'now'],
      ],
    );
    expect(sinks[0]?.createStream).toBe('LAPI');
    expect(sinks[2]?.caFile).toBe('/ca.pem');
  });

  test.each([
    [{ LAPI_SINK_NATS_URL: 'http://u:secret@a' }, /LAPI_SINK_NATS_URL is .* must be nats:/],
    [{ LAPI_SINK_NATS_SUBJECT: 'a.>' }, /LAPI_SINK_NATS_SUBJECT is .* must be levels/],
    [{ LAPI_SINK_MQTT_TOPIC: 'a/#' }, /LAPI_SINK_MQTT_TOPIC is .* must be levels/],
    [{ LAPI_SINK_MQTT_FILTER: 'kinds=a' }, /kinds is none of device, kind, tag/],
    [{ LAPI_SINK_MQTT_FILTER: 'kind=' }, /kind is empty/],
    [{ LAPI_SINK_MQTT_FROM: 'yesterday' }, /must be one of now, start/],
    [{ LAPI_SINK_NATS_CREATE_STREAM: 'a b' }, /must be 1–64/],
    [{ LAPI_SINKS_FILE: '/nowhere' }, /no such file/],
  ])('what is wrong is told, a password is not: %j', (env, expected) => {
    expect(() => read(env)).toThrow(expected);
    expect(() => read(env)).not.toThrow(/secret/);
  });

  test.each([
    ['[{"url":"nats://u:secret@a"', /not JSON/],
    [[{ name: 'a', type: 'nats', url: 'nats://u:secret@a b' }], /0\.url: must be nats:/],
    [[{ name: 'a', type: 'nats', url: 'nats://u:secret@a', topic: 'x' }], /0: .*topic/],
    [[{ name: 'a', type: 'kafka', url: 'kafka://u:secret@a' }], /0\.type/],
    [[{ name: 'nats', type: 'nats', url: 'nats://u:secret@a' }], /the name nats is taken/],
    [[{ name: 'a', type: 'mqtt', url: 'mqtt://u:secret@a', filter: { kinds: [''] } }], /0\.filter: kind/],
  ])('so it is in a file: %j', (content, expected) => {
    const env = { LAPI_SINKS_FILE: file(content) };
    expect(() => read(env)).toThrow(expected);
    expect(() => read(env)).not.toThrow(/secret/);
  });

  test('the help names all of them and shows no URL', () => {
    const help = configHelp('x', Settings);
    for (const name of Object.keys(SINK_VARIABLES)) expect(help).toContain(name);
  });
});

describe('the optional packages', () => {
  const nats = read({ LAPI_SINK_NATS_URL: 'nats://127.0.0.1:1' })[0];

  test('one that is not installed is named, with what to type', async () => {
    if (nats === undefined) throw new TypeError('no sink');
    const missing = Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' });
    const opening = openSink(nats, (name) => loadPackage(name, () => Promise.reject(missing)));
    await expect(opening).rejects.toThrow(
      /needs the optional package @lapi-broker\/sink-nats.*npm install @lapi-broker\/sink-nats/,
    );
  });

  test('one that fails for another reason says its own', async () => {
    if (nats === undefined) throw new TypeError('no sink');
    const opening = openSink(nats, (name) => loadPackage(name, () => Promise.reject(new Error('broken'))));
    await expect(opening).rejects.toThrow(/^broken$/);
  });

  test('both are there in this repository', async () => {
    const sinks = read({ LAPI_SINK_NATS_URL: 'nats://127.0.0.1:1', LAPI_SINK_MQTT_URL: 'mqtt://127.0.0.1:1' });
    for (const sink of sinks) expect(await openSink(sink)).toHaveProperty('connect');
  });
});
