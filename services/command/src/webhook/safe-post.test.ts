/** Requests to receivers that mean ill, on real sockets: where a request goes, and that it ends. 127.0.0.1 stands for a public address here, because
 *  it is allowed; the rest of 127.0.0.0/8 for a private one. Receivers listen on all addresses, so whatever goes astray is counted. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createHttpServer, type RequestListener, type Server } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Server as NetServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { waitFor } from '@lapi-broker/fixture';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { parseRanges } from './address-rules.ts';
import { type Posted, type Resolve, SafePost } from './safe-post.ts';

const NAME = 'receiver.invalid';
const PUBLIC = '127.0.0.1';
const PRIVATE = '127.0.0.2';
const opened: (() => Promise<void>)[] = [];

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'lapi-webhook-'));
  const out = ['-keyout', path.join(directory, 'key.pem'), '-out', path.join(directory, 'cert.pem')];
  const about = ['-subj', `/CN=${NAME}`, '-addext', `subjectAltName=DNS:${NAME}`, '-days', '2', '-nodes'];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', ...about, ...out], {
    stdio: 'ignore',
  });
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));
afterEach(async () => {
  for (const close of opened.splice(0)) await close();
});

const file = (name: string): string => readFileSync(path.join(directory, name), 'utf8');

async function listen(server: NetServer): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', resolve));
  opened.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return (server.address() as AddressInfo).port;
}

/** A receiver, and how many requests and connections it saw. */
async function receiver(onRequest: RequestListener, secure = false) {
  const seen = { requests: 0, connections: 0, names: new Set<string>(), bodies: [] as string[] };
  const listener: RequestListener = (request, response) => {
    seen.requests += 1;
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on('end', () => {
      seen.bodies.push(body);
      onRequest(request, response);
    });
  };
  const server: Server = secure
    ? createHttpsServer({ key: file('key.pem'), cert: file('cert.pem') }, listener)
    : createHttpServer(listener);
  server.on('connection', () => {
    seen.connections += 1;
  });
  server.on('secureConnection', (socket: { servername?: string }) => seen.names.add(String(socket.servername)));
  server.on('tlsClientError', () => undefined);
  return { port: await listen(server), seen };
}

/** A receiver that speaks what it wants. */
function rawReceiver(onConnection: (socket: Socket) => void): Promise<number> {
  return listen(createTcpServer(onConnection));
}

interface Asked {
  readonly url: string;
  readonly port: number;
  readonly resolve?: Resolve;
  readonly ca?: string;
  readonly timeoutMs?: number;
}

function client({ port, resolve = async () => [PUBLIC], ca }: Omit<Asked, 'url' | 'timeoutMs'>): SafePost {
  const rules = { allowed: parseRanges(`${PUBLIC},127.0.0.3`), allowHttp: true, ports: [port] };
  const poster = new SafePost({ rules, resolve, ca, nowMs: () => Date.now() });
  opened.push(async () => poster.stop());
  return poster;
}

function send(poster: SafePost, url: string, timeoutMs = 10_000, signal?: AbortSignal): Promise<Posted> {
  const about = { url, headers: { 'Content-Type': 'application/json' }, body: Buffer.from('{"a":1}'), timeoutMs };
  return poster.post({ ...about, ...(signal === undefined ? {} : { signal }) });
}

const once = ({ url, timeoutMs, ...asked }: Asked): Promise<Posted> => send(client(asked), url, timeoutMs);
const ok: RequestListener = (_, response) => response.writeHead(204).end();

test('a request goes to the address that was checked, under its name and with its body', async () => {
  let host: string | undefined;
  const { port, seen } = await receiver((request, response) => {
    host = request.headers.host;
    ok(request, response);
  });
  // No resolver of this machine knows the name.
  expect(await once({ url: `http://${NAME}:${port}/in?x=1`, port })).toMatchObject({ status: 'answered', code: 204 });
  expect({ host, bodies: seen.bodies }).toEqual({ host: `${NAME}:${port}`, bodies: ['{"a":1}'] });
});

test('a name that is public at the first look and private at the second is not followed there', async () => {
  const { port, seen } = await receiver(ok);
  const answers = [[PUBLIC], [PRIVATE], ['::ffff:127.0.0.1'], [PUBLIC]];
  let looks = 0;
  const poster = client({ port, resolve: async () => answers[looks++] ?? [] });
  const url = `http://${NAME}:${port}/`;
  expect(await send(poster, url)).toMatchObject({ code: 204 });
  // Neither a new connection nor the one that is open.
  expect(await send(poster, url)).toEqual({ status: 'failed', error: 'refused' });
  expect(await send(poster, url)).toEqual({ status: 'failed', error: 'refused' });
  expect(seen.requests).toBe(1);
  expect(await send(poster, url)).toMatchObject({ code: 204 });
  // One look for each request: nothing is looked up behind the check.
  expect({ looks, requests: seen.requests }).toEqual({ looks: 4, requests: 2 });
});

test('one private address among several refuses all', async () => {
  const { port, seen } = await receiver(ok);
  const resolve: Resolve = async () => [PUBLIC, PRIVATE];
  expect(await once({ url: `http://${NAME}:${port}/`, port, resolve })).toEqual({ status: 'failed', error: 'refused' });
  expect(seen.connections).toBe(0);
});

test('an address in place of a name is checked in every form, and no resolver is asked', async () => {
  const { port, seen } = await receiver(ok);
  const resolve: Resolve = async () => {
    throw new Error('asked');
  };
  for (const host of [PRIVATE, '2130706434', '0x7f.2', '0177.0.0.2', '[::1]', '[::ffff:127.0.0.1]']) {
    expect(await once({ url: `http://${host}:${port}/`, port, resolve })).toEqual({
      status: 'failed',
      error: 'refused',
    });
  }
  expect(seen.connections).toBe(0);
  expect(await once({ url: `http://2130706433:${port}/`, port, resolve })).toMatchObject({ code: 204 });
});

test('a redirect is an answer, and not followed', async () => {
  const elsewhere = await receiver(ok);
  const { port } = await receiver((_, response) =>
    response.writeHead(307, { Location: `http://${PUBLIC}:${elsewhere.port}/` }).end(),
  );
  expect(await once({ url: `http://${NAME}:${port}/`, port })).toMatchObject({ status: 'answered', code: 307 });
  expect(elsewhere.seen.connections).toBe(0);
});

test('certificates are verified for the name, and the name is what the server is asked for', async () => {
  const { port, seen } = await receiver(ok, true);
  const ca = file('cert.pem');
  const failed = { status: 'failed', error: 'tls' };
  expect(await once({ url: `https://${NAME}:${port}/`, port, ca })).toMatchObject({ code: 204 });
  expect([...seen.names]).toEqual([NAME]);
  expect(await once({ url: `https://${NAME}:${port}/`, port })).toEqual(failed);
  expect(await once({ url: `https://other.invalid:${port}/`, port, ca })).toEqual(failed);
  expect(await once({ url: `https://${PUBLIC}:${port}/`, port, ca })).toEqual(failed);
  expect(seen.requests).toBe(1);
});

test('a receiver that does not answer, drips its answer, or drips its headers, is left at the deadline', async () => {
  const drip = (head: string, piece: string) =>
    rawReceiver((socket) => {
      socket.write(head);
      const timer = setInterval(() => socket.write(piece), 50);
      socket.on('close', () => clearInterval(timer));
    });
  const silent = await rawReceiver(() => undefined);
  const body = await drip('HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n', 'x');
  const headers = await drip('HTTP/1.1 200 OK\r\n', 'X-A: b\r\n');
  const early = await drip('', 'HTTP/1.1 103 Early Hints\r\n\r\n');
  const outcomes = await Promise.all(
    [silent, body, headers, early].map((port) => once({ url: `http://${NAME}:${port}/`, port, timeoutMs: 400 })),
  );
  expect(outcomes).toEqual(Array(4).fill({ status: 'failed', error: 'timeout' }));
});

test('of an answer without end so much is read, and the connection is cut', async () => {
  let sent = 0;
  let cut = false;
  const { port } = await receiver((_, response) => {
    response.writeHead(200);
    const more = (): void => {
      if (response.destroyed) return;
      sent += 65_536;
      if (response.write(Buffer.alloc(65_536))) setImmediate(more);
      else response.once('drain', more);
    };
    response.on('close', () => {
      cut = true;
    });
    more();
  });
  expect(await once({ url: `http://${NAME}:${port}/`, port })).toMatchObject({ status: 'answered', code: 200 });
  await waitFor(() => cut, { deadlineMs: 5_000, what: 'the connection to be cut' });
  expect(sent).toBeLessThan(64 * 1024 * 1024);
});

test('an answer that breaks off is no answer, and what is not HTTP is none either', async () => {
  const after = (text: string, then: (socket: Socket) => void) =>
    rawReceiver((socket) => socket.once('data', () => socket.write(text, () => then(socket))));
  const broken = await after('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf', (socket) => socket.end());
  const reset = await after('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf', (socket) => socket.resetAndDestroy());
  const closed = await after('', (socket) => socket.end());
  const other = await after('SSH-2.0-OpenSSH_9.2\r\n', () => undefined);
  const endless = await after(`HTTP/1.1 200 OK\r\nX-A: ${'x'.repeat(100_000)}`, () => undefined);
  const outcome = async (port: number) => await once({ url: `http://${NAME}:${port}/`, port });
  expect(await outcome(broken)).toEqual({ status: 'failed', error: 'closed' });
  expect(await outcome(reset)).toEqual({ status: 'failed', error: 'closed' });
  expect(await outcome(closed)).toEqual({ status: 'failed', error: 'closed' });
  expect(await outcome(other)).toEqual({ status: 'failed', error: 'invalid' });
  expect(await outcome(endless)).toEqual({ status: 'failed', error: 'invalid' });
});

test('interim answers without end are no answer, long before the deadline', async () => {
  const port = await rawReceiver((socket) => {
    const more = (): void => {
      if (socket.destroyed) return;
      socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(100));
      setImmediate(more);
    };
    socket.once('data', more);
  });
  expect(await once({ url: `http://${NAME}:${port}/`, port, timeoutMs: 5_000 })).toEqual({
    status: 'failed',
    error: 'invalid',
  });
  const few = await receiver((request, response) => {
    response.writeEarlyHints({ link: '</a>; rel=preload' });
    ok(request, response);
  });
  expect(await once({ url: `http://${NAME}:${few.port}/`, port: few.port })).toMatchObject({ code: 204 });
});

test('a name whose resolver is silent is looked up once, however many ask, and does not hold up others', async () => {
  const { port, seen } = await receiver(ok);
  const slow = Promise.withResolvers<readonly string[]>();
  let looks = 0;
  const poster = client({
    port,
    resolve: async (host) => {
      if (host !== 'slow.invalid') return [PUBLIC];
      looks += 1;
      return await slow.promise;
    },
  });
  const url = `http://slow.invalid:${port}/`;
  const given = await Promise.all(Array.from({ length: 20 }, () => send(poster, url, 50)));
  expect(given).toEqual(Array(20).fill({ status: 'failed', error: 'timeout' }));
  expect(await send(poster, url, 50)).toEqual({ status: 'failed', error: 'timeout' });
  expect(looks).toBe(1);
  expect(await send(poster, `http://${NAME}:${port}/`)).toMatchObject({ code: 204 });
  // Each that waited has the addresses checked by itself.
  const waiting = [send(poster, url), send(poster, url)];
  slow.resolve([PUBLIC, PRIVATE]);
  expect(await Promise.all(waiting)).toEqual(Array(2).fill({ status: 'failed', error: 'refused' }));
  expect({ looks, requests: seen.requests }).toEqual({ looks: 1, requests: 1 });
});

test('a name without an address, and a resolver that does not answer, are failures', async () => {
  const url = `http://${NAME}:9/`;
  const port = 9;
  const unknown: Resolve = async () => {
    throw new Error('ENOTFOUND');
  };
  expect(await once({ url, port, resolve: unknown })).toEqual({ status: 'failed', error: 'dns' });
  expect(await once({ url, port, resolve: async () => [] })).toEqual({ status: 'failed', error: 'dns' });
  const never: Resolve = () => new Promise(() => undefined);
  expect(await once({ url, port, resolve: never, timeoutMs: 100 })).toEqual({ status: 'failed', error: 'timeout' });
});

test('of several addresses the first that takes the connection is used; none is a failure', async () => {
  const { port } = await receiver(ok);
  const closedPort = await listen(createTcpServer());
  await opened.pop()?.();
  expect(await once({ url: `http://${NAME}:${closedPort}/`, port: closedPort })).toEqual({
    status: 'failed',
    error: 'connect',
  });
  const only = createHttpServer(ok);
  await new Promise<void>((resolve) => only.listen(0, PUBLIC, resolve));
  opened.push(async () => {
    only.closeAllConnections();
    await new Promise((resolve) => only.close(resolve));
  });
  const onlyPort = (only.address() as AddressInfo).port;
  const resolve: Resolve = async () => ['127.0.0.3', PUBLIC];
  expect(await once({ url: `http://${NAME}:${onlyPort}/`, port: onlyPort, resolve })).toMatchObject({ code: 204 });
  expect(await once({ url: `http://${NAME}:${port}/`, port, resolve })).toMatchObject({ code: 204 });
});

test('a connection is used again, and one that ended meanwhile costs nothing', async () => {
  const { port, seen } = await receiver(ok);
  const poster = client({ port });
  for (let i = 0; i < 3; i++) expect(await send(poster, `http://${NAME}:${port}/`)).toMatchObject({ code: 204 });
  expect(seen).toMatchObject({ requests: 3, connections: 1 });
  // Takes one request for each connection, and ends it when the second comes.
  const used = new WeakSet<object>();
  const rude = await receiver((request, response) => {
    if (used.has(request.socket)) request.socket.destroy();
    else ok(request, response);
    used.add(request.socket);
  });
  const again = client({ port: rude.port });
  for (let i = 0; i < 3; i++) expect(await send(again, `http://${NAME}:${rude.port}/`)).toMatchObject({ code: 204 });
});

test('a caller that gives up breaks off at once', async () => {
  const port = await rawReceiver(() => undefined);
  const giveUp = new AbortController();
  const sending = send(client({ port }), `http://${NAME}:${port}/`, 30_000, giveUp.signal);
  setTimeout(() => giveUp.abort(), 50);
  expect(await sending).toEqual({ status: 'failed', error: 'stopped' });
  expect(await send(client({ port }), `http://${NAME}:${port}/`, 30_000, giveUp.signal)).toEqual({
    status: 'failed',
    error: 'stopped',
  });
});

test('what the receiver asks for in Retry-After is told', async () => {
  const { port } = await receiver((_, response) => response.writeHead(503, { 'Retry-After': '7' }).end());
  expect(await once({ url: `http://${NAME}:${port}/`, port })).toEqual({
    status: 'answered',
    code: 503,
    retryAfterMs: 7_000,
  });
});
