/** Clients that share nothing with the broker: another language, another WebSocket library, curl, and a plain HTTP LAPI script. */

import { execFile, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Broker, startProcess, waitFor } from '@lapi-broker/fixture';
import { SimulatedDevice } from '@lapi-broker/fleet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const run = promisify(execFile);
const client = (name: string): string => fileURLToPath(new URL(`../client/${name}`, import.meta.url));

/** Debian keeps its Python packages with its own interpreter. */
const python = ['/usr/bin/python3', 'python3'].find(
  (path) => spawnSync(path, ['-c', 'import websockets']).status === 0,
);
const hasCurl = spawnSync('curl', ['--version']).status === 0;
if (python === undefined)
  console.warn('skipped: no Python with the package websockets (Debian: apt-get install python3-websockets)');
if (!hasCurl) console.warn('skipped: no curl');

let broker: Broker;
beforeAll(async () => {
  broker = await Broker.start({ edges: 2 });
});
afterAll(() => broker.stop());

describe('independent clients', () => {
  test.runIf(python !== undefined && hasCurl)(
    "Python's websockets registers as a device and answers a call, and curl hears its alarm",
    async () => {
      const code = '210235PYTHON00000001';
      const secret = await broker.provision(code, { type: 'ipc' });
      const device = await startProcess({
        name: 'python device',
        command: python as string,
        args: [client('device.py'), broker.edgeUrl(1), code, secret],
        ready: (line) => (line.includes('"registered"') ? line : undefined),
      });
      const { ack } = JSON.parse(device.ready) as { ack: { Cnonce: string; Resign: string } };
      expect(ack.Cnonce).toBe('pythonCnonce0001');

      const events = await startProcess({
        name: 'curl',
        command: 'curl',
        args: [
          '-sN',
          '-H',
          `Authorization: Bearer ${broker.apiKey}`,
          `${broker.commands[0]?.url}/v1/events?device=${code}&kind=alarm.*&from=now`,
        ],
        ready: (line) =>
          line.startsWith('id:') || line.startsWith('retry:') || line.startsWith(':') ? line : undefined,
      });
      const info = await broker.api(`/v1/devices/${code}/LAPI/V1.0/System/DeviceInfo`);
      expect(info.status).toBe(200);
      expect(info.text).toContain('9007199254740993');
      expect(info.json()).toMatchObject({ source: 'device', Data: { DeviceName: 'python', DeviceCode: code } });

      const asked = await broker.api(`/v1/devices/${code}/LAPI/V1.0/System/Alarm/Test`);
      expect(asked.status).toBe(200);
      const heard = await waitForLine(events.lines, (line) => line.startsWith('data:'));
      expect(JSON.parse(heard.slice(5))).toMatchObject({
        code,
        kind: 'alarm.MotionAlarmOn',
        data: { AlarmInfo: { AlarmSeq: 7 } },
      });
      await waitForLine(device.lines, (line) => line.includes('Keepalive') && line.includes('Timeout'));
      await waitForLine(
        device.lines,
        (line) => line.includes('Notification/Alarm') && line.includes('"ResponseCode": 0'),
      );
      await Promise.all([events.kill(), device.kill()]);
    },
  );

  test('an HTTP LAPI client works after a change of its base URL', async () => {
    const code = '210235SIMN0000000042';
    const secret = await broker.provision(code, { type: 'nvr' });
    const device = new SimulatedDevice({ code, secret, profile: 'nvr', urls: [broker.edgeUrl(0)] });
    device.start();
    await broker.untilOnline(code);
    const { stdout } = await run(process.execPath, [client('platform.mjs')], {
      env: { BASE: `${broker.commands[0]?.url}/v1/devices/${code}`, TOKEN: broker.apiKey },
    });
    expect(JSON.parse(stdout)).toMatchObject({
      model: 'NVR-SIM-8',
      presets: expect.arrayContaining(['Gate']),
      refusal: expect.stringContaining('4'),
    });
    await device.stop();
  });
});

async function waitForLine(lines: () => readonly string[], matches: (line: string) => boolean): Promise<string> {
  return await waitFor(() => lines().find(matches), { deadlineMs: 15_000, what: 'a line of output' });
}
