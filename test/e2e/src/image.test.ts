/** Pictures leave the events of devices and come back through the API (protocol 11.4). */

import { createHash, randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import type { Broker } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, Device } from './device.ts';
import { EventReader, type ReadEvent } from './event-reader.ts';
import { type Setting, startSetting } from './setting.ts';

const MiB = 1024 * 1024;
const WORKING = 0;
const WITHOUT_STORE = 1;

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  setting = await startSetting({ edges: 1 });
  broker = setting.broker;
  await broker.addEdge({ LAPI_IMAGE_STORE: 'file:/dev/null/images' });
});
afterAll(() => setting.stop());

function jpeg(bytes: number): Buffer {
  return Buffer.concat([Buffer.from('ffd8ffe0', 'hex'), randomBytes(bytes - 4)]);
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

function structure(seq: number, ...pictures: readonly Buffer[]): string {
  const list = pictures.map(
    (picture, i) => `{"Index":${i},"Size":0,"Big":9007199254740993,"Data":"${picture.toString('base64')}"}`,
  );
  return `{"Seq":${seq},"SrcID":1,"StructureInfo":{"ImageInfoList":[${list.join(',')}]}}`;
}

function read(id: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  const authorization = `Bearer ${broker.apiKey}`;
  return fetch(`${broker.commands[0]?.url}/v1/images/${id}`, { headers: { authorization, ...headers } });
}

async function readAll(id: string): Promise<Buffer> {
  const response = await read(id);
  expect(response.status).toBe(200);
  return Buffer.from(await response.arrayBuffer());
}

const urlOf = (event: ReadEvent, i = 0): string => String(event.images[i]?.url);
const idOf = (event: ReadEvent, i = 0): string => urlOf(event, i).slice('/v1/images/'.length);
const dataOf = (text: string): string => text.slice(text.indexOf('"data":') + 7, -1);

async function stored(device: Device, count = 1): Promise<ReadEvent[]> {
  const reader = await EventReader.replay(broker, `device=${device.code}&kind=structure`);
  await reader.until(() => true, { times: count, deadlineMs: 20_000 });
  reader.close();
  return reader.events;
}

describe.concurrent('with the image store at hand', () => {
  test('a picture goes to the store, a reference stays, and no other byte of the data changes', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: WORKING });
    const [small, large] = [jpeg(5_000), jpeg(300_000)];
    const sent = structure(1, small, large);
    expect(await device.notify('Structure', sent)).toMatchObject({ ResponseCode: 0 });
    const [event] = await stored(device);
    if (event === undefined) throw new Error('no event');
    expect(event.images).toEqual(
      [small, large].map((picture, i) => ({
        path: `/StructureInfo/ImageInfoList/${i}/Data`,
        contentType: 'image/jpeg',
        bytes: picture.length,
        sha256: sha256(picture),
        url: expect.stringMatching(new RegExp(`^/v1/images/\\d{10}-${sha256(picture)}$`)),
      })),
    );
    const expected = sent
      .replace(small.toString('base64'), urlOf(event))
      .replace(large.toString('base64'), urlOf(event, 1));
    expect(dataOf(event.text)).toBe(expected);
    expect((await readAll(idOf(event))).equals(small)).toBe(true);
    expect((await readAll(idOf(event, 1))).equals(large)).toBe(true);
  });

  test('kinds nobody knows and kinds that may be lost give up their pictures too', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: WORKING });
    const picture = jpeg(5_000);
    const data = `{"Picture":{"Name":"a.jpg","Data":"${picture.toString('base64')}"}}`;
    await device.notify('ObjectRealTimeData', data);
    await device.request('/LAPI/V1.0/Never/Heard/Of', data);
    const reader = await EventReader.replay(broker, `device=${device.code}`);
    for (const kind of ['objectrealtimedata', 'unhandled']) {
      const event = await reader.until((each) => each.kind === kind);
      expect(event.images).toMatchObject([{ path: '/Picture/Data', bytes: 5_000 }]);
      expect((await readAll(idOf(event))).equals(picture)).toBe(true);
    }
  });

  test('a picture that comes again is one file', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: WORKING });
    const picture = jpeg(5_000);
    for (let i = 0; i < 3; i++) await device.notify('Structure', structure(i, picture, picture));
    const ids = (await stored(device, 3)).flatMap((event) => [idOf(event), idOf(event, 1)]);
    // The hour may end meanwhile.
    expect(new Set(ids).size).toBeLessThanOrEqual(2);
    const name = sha256(picture);
    const files = await readdir(broker.imageDir, { recursive: true });
    expect(files.filter((file) => file.includes(name)).length).toBe(new Set(ids).size);
  });

  test('V5: events of a device keep their order, whatever their pictures weigh', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: WORKING });
    const answers = Array.from({ length: 30 }, (_, i) => {
      const pictures = i % 3 === 0 ? [jpeg(500_000), jpeg(20_000)] : i % 3 === 1 ? [] : [jpeg(5_000)];
      return device.notify('Structure', structure(i, ...pictures), 20_000);
    });
    for (const answer of await Promise.all(answers)) expect(answer).toMatchObject({ ResponseCode: 0 });
    const events = await stored(device, 30);
    expect(events.map(({ data }) => data.Seq)).toEqual(Array.from({ length: 30 }, (_, i) => i));
    expect(events.map(({ seq }) => seq)).toEqual([...events.map(({ seq }) => seq)].sort((a, b) => a - b));
  });

  test('serving: key, scope, version, part, and what a browser may do with it', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: WORKING });
    const picture = jpeg(200_000);
    await device.notify('Structure', structure(1, picture));
    const [event] = await stored(device);
    const id = idOf(event as ReadEvent);
    const url = `${broker.commands[0]?.url}/v1/images/${id}`;
    expect((await fetch(url)).status).toBe(401);
    const made = await broker.api('/v1/keys', { method: 'POST', body: { name: 'caller', scopes: ['call'] } });
    const authorization = `Bearer ${String(made.json().key)}`;
    expect((await fetch(url, { headers: { authorization } })).status).toBe(403);

    const whole = await read(id);
    const etag = `"${sha256(picture)}"`;
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      'content-type': 'image/jpeg',
      etag,
      'cache-control': 'private, max-age=86400, immutable',
      'accept-ranges': 'bytes',
      'content-disposition': 'inline',
      'x-content-type-options': 'nosniff',
      'content-security-policy': "default-src 'none'; sandbox",
    });
    expect(Buffer.from(await whole.arrayBuffer()).equals(picture)).toBe(true);

    const part = await read(id, { range: 'bytes=1000-1999' });
    expect([part.status, part.headers.get('content-range')]).toEqual([206, 'bytes 1000-1999/200000']);
    expect(Buffer.from(await part.arrayBuffer()).equals(picture.subarray(1_000, 2_000))).toBe(true);
    const behind = await read(id, { range: 'bytes=200000-' });
    expect([behind.status, behind.headers.get('content-range')]).toEqual([416, 'bytes */200000']);
    expect(await behind.json()).toMatchObject({ error: 'range_not_satisfiable' });
    const other = await read(id, { range: 'bytes=0-1', 'if-range': '"other"' });
    expect([other.status, (await other.arrayBuffer()).byteLength]).toEqual([200, 200_000]);

    const known = await read(id, { 'if-none-match': etag });
    expect([known.status, known.headers.get('etag'), await known.text()]).toEqual([304, etag, '']);
    for (const absent of [id.replace(/.$/, (last) => (last === '0' ? '1' : '0')), 'x', '..%2f..%2fetc%2fpasswd']) {
      const answer = await read(absent);
      expect([absent, answer.status]).toEqual([absent, 404]);
      expect(await answer.json()).toMatchObject({ error: 'not_found' });
    }
  });

  test('an event of 9 MB passes, and a flow of 700 KB pictures, in bounded memory', async () => {
    const edge = broker.edges[WORKING];
    if (edge === undefined) throw new Error('no edge');
    const residentMiB = async (): Promise<number> => (await broker.metric(edge, 'process_resident_memory_bytes')) / MiB;
    const before = await residentMiB();
    const big = await Device.online(broker, { settings: { profile: 'quiet' }, edge: WORKING });
    const [pano, face] = [jpeg(6 * MiB), jpeg(700_000)];
    expect(await big.notify('Structure', structure(1, pano, face), 20_000)).toMatchObject({ ResponseCode: 0 });
    const [event] = await stored(big);
    expect(event?.text.length).toBeLessThan(3_000);
    expect((await readAll(idOf(event as ReadEvent))).equals(pano)).toBe(true);

    const devices = await Promise.all(
      Array.from({ length: 4 }, () => Device.online(broker, { settings: { profile: 'quiet' }, edge: WORKING })),
    );
    let most = 0;
    for (let round = 0; round < 8; round++) {
      await Promise.all(
        devices.map(async (device) =>
          expect(await device.notify('Structure', structure(round, jpeg(700_000)), 20_000)).toMatchObject({
            ResponseCode: 0,
          }),
        ),
      );
      most = Math.max(most, await residentMiB());
    }
    for (const device of devices) {
      const events = await stored(device, 8);
      expect(events.every(({ images }) => images[0]?.imageDropped === undefined)).toBe(true);
    }
    // 30 MB of pictures went through, a node may hold 64 MB of what is not stored, and garbage is not collected at once.
    expect(most - before).toBeLessThan(250);
    expect(await broker.metric(edge, 'lapi_edge_image_bytes_total')).toBeGreaterThan(28 * MiB);
  });
});

test('without an image store events go on: they say what is missing, and how much of it', async () => {
  const edge = broker.edges[WITHOUT_STORE];
  if (edge === undefined) throw new Error('no edge');
  const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: WITHOUT_STORE });
  const picture = jpeg(100_000);
  expect(await device.notify('Structure', structure(7, picture))).toMatchObject({ ResponseCode: 0 });
  expect(await device.notify('Alarm', alarm(1))).toMatchObject({ ResponseCode: 0 });
  const [event] = await stored(device);
  expect(event?.images).toEqual([
    {
      path: '/StructureInfo/ImageInfoList/0/Data',
      contentType: 'image/jpeg',
      bytes: 100_000,
      sha256: sha256(picture),
      imageDropped: true,
    },
  ]);
  expect(dataOf(event?.text ?? '')).toBe(structure(7, Buffer.alloc(0)));
  expect(await broker.metric(edge, 'lapi_edge_images_total', { result: 'failed' })).toBe(1);
  expect(edge.lines().filter((line) => line.includes('"images.dropped"')).length).toBe(1);
  expect(edge.lines().some((line) => line.includes(picture.toString('base64', 0, 300)))).toBe(false);
});
