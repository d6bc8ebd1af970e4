import { afterEach, expect, test } from 'vitest';
import { createServer } from './server.ts';
import { eventually, get, type RawPeer, rawPeer } from './testing/raw-peer.ts';
import type { ResponseHandle, Server, StreamHandle } from './types.ts';

const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

async function streaming(
  maxBufferedBytes = 1_000_000,
): Promise<{ peer: RawPeer; stream: StreamHandle; response: ResponseHandle; server: Server }> {
  let opened: { stream: StreamHandle; response: ResponseHandle } | undefined;
  const server = await createServer({ host: '127.0.0.1', port: 0 })
    .route('GET', '/events', async (_request, response) => {
      await new Promise((resolve) => setImmediate(resolve));
      const stream = response.stream(200, [['Content-Type', 'text/event-stream']], { maxBufferedBytes });
      opened = { stream, response };
    })
    .route('GET', '/', (_request, response) => response.send(200, [], 'other'))
    .listen();
  cleanups.push(() => server.close());
  const peer = await rawPeer(server.port);
  cleanups.push(() => peer.destroy());
  peer.send(get('/events'));
  await eventually(() => opened !== undefined, 'stream opened');
  if (opened === undefined) throw new Error('unreachable');
  return { peer, server, ...opened };
}

/** The payload of a chunked answer whose payload holds no CR or LF. */
function payloadOf(text: string): string {
  const lines = text.slice(text.indexOf('\r\n\r\n') + 4).split('\r\n');
  return lines.filter((_line, index) => index % 2 === 1).join('');
}

/** Fills the kernel's buffers of a peer that does not read. */
function fill(stream: StreamHandle, chunk: string): number {
  let written = 0;
  while (stream.bufferedBytes() === 0 && written < 50_000_000) {
    stream.write(chunk);
    written += chunk.length;
  }
  return written;
}

test('chunks arrive as they are written, and end completes the answer on a usable connection', async () => {
  const { peer, stream, response } = await streaming();
  expect(stream.write('data: 1\n\n')).toBe(true);
  expect(await peer.until('data: 1\n\n')).toMatch(/^HTTP\/1\.1 200 OK\r\n.*text\/event-stream.*chunked/s);
  stream.write(Buffer.from('data: 2\n\n'));
  await peer.until('data: 2\n\n');
  stream.end();
  expect(stream.ended && response.ended).toBe(true);
  await peer.until(/\r\n0\r\n\r\n$/);
  peer.send(get('/'));
  await peer.until('other');
});

test('an empty chunk does not end the stream', async () => {
  const { peer, stream } = await streaming();
  stream.write('');
  stream.write(new Uint8Array(0));
  stream.write('still open');
  await peer.until('still open');
});

test('a peer that does not read is seen: write returns false, bytes are counted, drain tells when all has gone, nothing is lost', async () => {
  const { peer, stream } = await streaming(10_000_000);
  let drains = 0;
  stream.onDrain(() => {
    drains += 1;
  });
  peer.socket.pause();
  const chunk = 'a'.repeat(65_536);
  let written = fill(stream, chunk);
  expect(stream.bufferedBytes()).toBeGreaterThan(0);
  for (let index = 0; index < 20; index += 1) {
    expect(stream.write(String(index % 10).repeat(65_536))).toBe(false);
    written += 65_536;
  }
  expect(stream.bufferedBytes()).toBeGreaterThanOrEqual(20 * 65_536);
  expect(drains).toBe(0);
  peer.socket.resume();
  await eventually(() => drains > 0 && stream.bufferedBytes() === 0, 'drained');
  expect(stream.write('last')).toBe(true);
  stream.end();
  const payload = payloadOf(await peer.until(/\r\n0\r\n\r\n$/));
  expect(payload.length).toBe(written + 4);
  expect(payload.replace(/(.)\1*/g, '$1')).toMatch(/^a(0123456789){2}last$/);
});

test('end with bytes still waiting delivers them all', async () => {
  const { peer, stream } = await streaming(10_000_000);
  peer.socket.pause();
  let written = fill(stream, 'a'.repeat(65_536));
  for (let index = 0; index < 10; index += 1) {
    stream.write('b'.repeat(65_536));
    written += 65_536;
  }
  stream.end();
  peer.socket.resume();
  expect(payloadOf(await peer.until(/\r\n0\r\n\r\n$/)).length).toBe(written);
});

test('a peer over its buffer limit is dropped and onClosed runs once; another connection is not concerned', async () => {
  const { peer, stream, response, server } = await streaming(200_000);
  let closes = 0;
  stream.onClosed(() => {
    closes += 1;
  });
  peer.socket.pause();
  fill(stream, 'a'.repeat(65_536));
  for (let index = 0; index < 10; index += 1) stream.write('a'.repeat(65_536));
  expect({ closes, ended: stream.ended, response: response.ended, buffered: stream.bufferedBytes() }).toEqual({
    closes: 1,
    ended: true,
    response: true,
    buffered: 0,
  });
  const other = await rawPeer(server.port);
  cleanups.push(() => other.destroy());
  other.send(get('/'));
  await other.until('other');
  peer.socket.resume();
  await peer.untilClosed();
});

test('a peer that leaves runs onClosed once, and every method is then a no-op', async () => {
  const { peer, stream, response } = await streaming();
  let closes = 0;
  stream.onClosed(() => {
    closes += 1;
  });
  stream.write('hello');
  await peer.until('hello');
  peer.destroy();
  await eventually(() => stream.ended, 'closed');
  stream.write('nobody');
  stream.end();
  expect({ closes, ended: response.ended }).toEqual({ closes: 1, ended: true });
});

test('end runs no onClosed', async () => {
  const { peer, stream, server } = await streaming();
  let closes = 0;
  stream.onClosed(() => {
    closes += 1;
  });
  stream.write('all');
  stream.end();
  await peer.until(/\r\n0\r\n\r\n$/);
  peer.destroy();
  await eventually(() => server.plainConnections() === 0, 'closed');
  expect(closes).toBe(0);
});

test('an answer that cannot be completed breaks its connection, and looks like no whole one', async () => {
  const { peer, stream, response } = await streaming();
  let told = false;
  stream.onClosed(() => {
    told = true;
  });
  stream.write('data: 1\n\n');
  await peer.until('data: 1\n\n');
  stream.abort();
  stream.abort();
  expect([told, stream.ended, response.ended]).toEqual([true, true, true]);
  await peer.untilClosed();
  expect(peer.text()).not.toMatch(/\r\n0\r\n\r\n$/);
});
