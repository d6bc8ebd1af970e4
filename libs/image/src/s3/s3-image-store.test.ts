/** What an S3-compatible store may do wrong, by a server that does it; the contract suite runs against a right one. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { hourOf, type ImageId, imageIdOf } from '../image-id.ts';
import type { OpenImage } from '../image-store.ts';
import { S3ImageStore } from './s3-image-store.ts';

const SECRET = 'not-to-be-seen-anywhere';
const PICTURE = Buffer.alloc(5_000, 7);
const ID = imageIdOf(PICTURE, Date.UTC(2026, 2, 1, 12));

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage['headers'];
}

let server: Server;
let store: S3ImageStore;
let seen: Seen[];
let respond: (request: IncomingMessage, response: ServerResponse) => void;

beforeAll(async () => {
  server = createServer((request, response) => {
    seen.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers });
    request.resume();
    request.on('end', () => respond(request, response));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  store = new S3ImageStore({
    bucket: 'bucket',
    prefix: 'some/where',
    endpoint: new URL(`http://127.0.0.1:${port}`),
    region: 'eu-1',
    style: 'path',
    accessKey: 'AK',
    secretKey: SECRET,
  });
});
afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});
beforeEach(() => {
  seen = [];
  respond = (_, response) => response.end();
});

const soon = (): AbortSignal => AbortSignal.timeout(10_000);
const put = (signal = soon()): Promise<void> => store.put(ID, PICTURE, 'image/jpeg', signal);
const refused = { code: 'broker_unavailable' };

test('a put says what it holds, signed, under a name that follows from the id', async () => {
  await put();
  const [hour, name = ''] = ID.split('-');
  expect(seen).toMatchObject([
    {
      method: 'PUT',
      url: `/bucket/some/where/${hour}/${name.slice(0, 2)}/${name}`,
      headers: {
        'content-type': 'image/jpeg',
        'content-length': '5000',
        'x-amz-content-sha256': name,
        authorization: expect.stringMatching(
          /^AWS4-HMAC-SHA256 Credential=AK\/\d{8}\/eu-1\/s3\/aws4_request, SignedHeaders=.*x-amz-content-sha256/,
        ),
      },
    },
  ]);
  expect(JSON.stringify(seen)).not.toContain(SECRET);
});

test('a refusal, a redirect and a connection that breaks fail once, and are not tried again', async () => {
  for (const status of [400, 403, 404, 500, 503]) {
    respond = (_, response) => response.writeHead(status).end('<Error><Code>SlowDown</Code></Error>');
    await expect(put(), String(status)).rejects.toMatchObject({
      ...refused,
      cause: { message: `PUT answered ${status} SlowDown` },
    });
  }
  respond = (_, response) => response.writeHead(307, { location: '/elsewhere' }).end();
  await expect(put()).rejects.toMatchObject(refused);
  respond = (request) => request.socket.destroy();
  await expect(put()).rejects.toMatchObject(refused);
  expect(seen.length).toBe(7);
});

test('a store that does not answer is given up when the caller says so', async () => {
  respond = () => undefined;
  await expect(put(AbortSignal.timeout(50))).rejects.toMatchObject(refused);
  await expect(store.open(ID, AbortSignal.timeout(50))).rejects.toMatchObject(refused);
});

test('nobody there is a refusal, without the secret', async () => {
  const away = new S3ImageStore({
    ...{ bucket: 'bucket', prefix: '', region: 'eu-1', style: 'path', accessKey: 'AK', secretKey: SECRET },
    endpoint: new URL('http://127.0.0.1:1'),
  });
  const error: unknown = await away.put(ID, PICTURE, 'x', soon()).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject(refused);
  expect(JSON.stringify(error, Object.getOwnPropertyNames(error))).not.toContain(SECRET);
});

test('a picture that comes short is a failure, not a picture', async () => {
  const opened = async (): Promise<OpenImage> => {
    respond = (_, response) => response.writeHead(200, { 'content-length': '5000', 'content-type': 'image/png' }).end();
    const image = await store.open(ID, soon());
    if (image === 'absent') throw new Error('absent');
    expect(image).toMatchObject({ totalBytes: 5_000, contentType: 'image/png' });
    return image;
  };
  const readAll = async (image: OpenImage): Promise<void> => {
    for await (const piece of image.read(0, 4_999)) expect(piece.byteLength).toBeGreaterThan(0);
  };
  const short = await opened();
  respond = (_, response) => response.writeHead(206).end(PICTURE.subarray(1));
  await expect(readAll(short)).rejects.toMatchObject(refused);
  const broken = await opened();
  respond = (_, response) => {
    response.writeHead(206, { 'content-length': '5000' });
    response.write(PICTURE.subarray(0, 100), () => response.destroy());
  };
  await expect(readAll(broken)).rejects.toMatchObject(refused);
});

test('a sweep that may not delete fails instead of asking for ever, and touches nothing but hours', async () => {
  const old = '2026010100';
  respond = (request, response) => {
    const query = new URL(request.url ?? '', 'http://x').searchParams;
    if (request.method === 'POST')
      response.end('<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>');
    else if (query.get('delimiter') === '/')
      response.end(
        ['other', old, '2026030112']
          .map((hour) => `<CommonPrefixes><Prefix>some/where/${hour}/</Prefix></CommonPrefixes>`)
          .join(''),
      );
    else response.end(`<Contents><Key>${query.get('prefix')}aa/x</Key></Contents>`);
  };
  const swept = store.sweep(hourOf(Date.UTC(2026, 2, 1, 12)), soon());
  await expect(swept).rejects.toMatchObject({ ...refused, cause: { message: 'DeleteObjects: AccessDenied' } });
  const listed = seen.map(({ url }) => new URL(url, 'http://x').searchParams.get('prefix'));
  expect(listed).toEqual(['some/where/', `some/where/${old}/`, null]);
});

test('what is no id does not reach the store', async () => {
  await expect(store.put('../x' as ImageId, PICTURE, 'x', soon())).rejects.toThrow('not the id');
  expect(seen).toEqual([]);
});
