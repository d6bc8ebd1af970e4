import { type Broker } from '@lapi-broker/fixture';
import { request } from 'node:http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Device } from './device.ts';
import { type Setting, startSetting } from './setting.ts';
let setting: Setting; let broker: Broker;
beforeAll(async () => { setting = await startSetting({edges:1}); broker = setting.broker; });
afterAll(() => setting.stop());
function chunked(url: string, key: string): Promise<{status:number;text:string}> {
  return new Promise((resolve, reject) => {
    const r = request(url, { method: 'PUT', headers: { authorization: `Bearer ${key}`, 'x-lapi-timeout': '4000' } }, (res) => {
      let t=''; res.on('data', (c) => t+=c); res.on('end', () => resolve({status: res.statusCode ?? 0, text: t})); });
    r.on('error', reject); r.write('{"a":'); setTimeout(() => r.end('1}'), 20);
  });
}
test('40 chunked calls', async () => {
  const devices = await Promise.all(Array.from({length: 40}, () => Device.online(broker, {settings: {profile: 'quiet'}})));
  for (const d of devices) d.answering((c) => { setTimeout(() => d.wire.json({ResponseURL:c.url,ResponseCode:0,Cseq:c.cseq,Data:{}}), 1500); return undefined; });
  await new Promise((r) => setTimeout(r, 1200));
  const out = await Promise.all(devices.map((d) => chunked(`${broker.commands[0]!.url}/v1/devices/${d.code}/LAPI/V1.0/x`, broker.apiKey)));
  const n: Record<string, number> = {}; for (const o of out) n[o.status] = (n[o.status] ?? 0) + 1;
  console.log(n, out.find((o) => o.status !== 200)?.text.slice(0,200));
  expect(1).toBe(1);
}, 30000);
