/** What an attack on the platform side found, kept as stories over real processes. */

import { request } from 'node:http';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Broker } from '@lapi-broker/fixture';
import { Arena, runTarget, TARGETS } from '@lapi-broker/fuzz';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { answerTo, Device } from './device.ts';
import { type Setting, startSetting } from './setting.ts';

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  // Room for four bodies of the largest size.
  setting = await startSetting({ edges: 1, commandEnv: { LAPI_BODIES_BYTES: String(64 * 1024 * 1024) } });
  broker = setting.broker;
});
afterAll(() => setting.stop());

/** A call whose body comes without a length, in two pieces; answers the status. */
function chunkedCall(code: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const sent = request(`${broker.commands[0]?.url}/v1/devices/${code}/LAPI/V1.0/System/Time`, {
      method: 'PUT',
      agent: false,
      headers: { authorization: `Bearer ${broker.apiKey}`, 'x-lapi-timeout': '8000', 'transfer-encoding': 'chunked' },
    });
    sent.on('error', reject);
    sent.on('response', (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode ?? 0));
    });
    sent.write('{"a":');
    void sleep(20).then(() => sent.end('1}'));
  });
}

test('small bodies without a length take the room they need, not that of the largest allowed: twelve calls wait at once', async () => {
  const devices = await Promise.all(
    Array.from({ length: 12 }, () => Device.online(broker, { settings: { profile: 'quiet' } })),
  );
  for (const device of devices) device.answering(() => undefined);
  const calling = devices.map((device) => chunkedCall(device.code));
  await Promise.all(
    devices.map(async (device) => {
      const asked = await device.untilCalled('/LAPI/V1.0/System/Time');
      expect(asked.data).toEqual({ a: 1 });
    }),
  );
  for (const device of devices) for (const asked of device.calls) device.wire.json(answerTo(asked, { Data: {} }));
  expect(await Promise.all(calling)).toEqual(devices.map(() => 200));
});

test('bodies without a length are refused once they really fill the room', async () => {
  const codes = await Promise.all(Array.from({ length: 6 }, () => Device.provisioned(broker)));
  const half = '9'.repeat(12 * 1024 * 1024);
  const open = codes.map(({ code }) => {
    const sent = request(`${broker.commands[0]?.url}/v1/devices/${code}/LAPI/V1.0/System/Time`, {
      method: 'PUT',
      agent: false,
      headers: { authorization: `Bearer ${broker.apiKey}`, 'transfer-encoding': 'chunked' },
    });
    const status = new Promise<number>((resolve) => {
      sent.on('response', (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      sent.on('error', () => resolve(0));
    });
    sent.write(half);
    return { sent, status };
  });
  const refused = await Promise.race(open.map(({ status }) => status));
  expect(refused).toBe(429);
  for (const { sent } of open) sent.destroy();
});

test.each([
  '/docs',
  '/openapi.json',
  '/livez',
  '/v1/nodes',
  '/v1/devices/A1/LAPI/V1.0/System/DeviceInfo',
  '/v1/events',
  '/nowhere',
])('thousands of requests of a stranger in one packet get few answers: %s', async (path) => {
  const { port } = new URL(broker.commands[0]?.url ?? '');
  const socket = connect(Number(port), '127.0.0.1');
  let answers = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    answers += chunk;
  });
  const closed = new Promise((resolve) => socket.on('close', resolve));
  socket.on('error', () => undefined); // It is closed while it still sends.
  socket.write(`GET ${path} HTTP/1.1\r\nHost: broker.example\r\n\r\n`.repeat(5_000));
  await closed;
  expect(answers.split('HTTP/1.1 ').length - 1).toBeLessThan(1_000);
});

test('R5: a short seeded fuzz of every way in finds nothing: no 101 without a Sign, no internal error, no unanswered message', async () => {
  const arena = new Arena(broker);
  const results = await Promise.all(
    TARGETS.map((target) => runTarget({ target, arena, seed: 1, inputs: 50, controlMs: 0 })),
  );
  for (const { target, inputs, findings } of results)
    expect({ target, inputs, findings }).toMatchObject({ inputs: 50, findings: [] });
});
