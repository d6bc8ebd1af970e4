import { afterEach, describe, expect, test } from 'vitest';
import { dropCauseOf } from './drop-cause.ts';
import { createServer } from './server.ts';
import {
  BINARY,
  CLOSE,
  eventually,
  frame,
  get,
  PING,
  PONG,
  type RawPeer,
  rawPeer,
  TEXT,
  upgrade,
} from './testing/raw-peer.ts';
import type { RequestSnapshot, Server, ServerOptions, Socket, UpgradeHandle, WebSocketBehavior } from './types.ts';

class Session {
  readonly #name: string;

  constructor(name: string) {
    this.#name = name;
  }

  get name(): string {
    return this.#name;
  }
}

interface Seen {
  readonly log: string[];
  socket: Socket<Session> | undefined;
  closed: { session: Session; code: number; reason: string } | undefined;
}

const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

async function serve(
  behavior: Partial<WebSocketBehavior<Session>> = {},
  options: Partial<ServerOptions> = {},
): Promise<{ server: Server; seen: Seen }> {
  const seen: Seen = { log: [], socket: undefined, closed: undefined };
  const server = await createServer({ host: '127.0.0.1', port: 0, ...options })
    .webSocket<Session>('/*', {
      maxMessageBytes: 1000,
      maxBufferedBytes: 100_000,
      upgrade: (_request, handle) => void handle.accept(new Session('one')),
      open: (socket) => {
        seen.socket = socket;
        seen.log.push('open');
      },
      message: (_socket, bytes, isBinary) =>
        void seen.log.push(`${isBinary ? 'binary' : 'text'} ${bytes.toString('utf8')}`),
      closed: (session, code, reason) => {
        seen.closed = { session, code, reason };
        seen.log.push('closed');
      },
      ...behavior,
    })
    .route('GET', '/*', (_request, response) => response.send(401, [], 'plain'))
    .listen();
  cleanups.push(() => server.close());
  return { server, seen };
}

async function peerOf(server: Server): Promise<RawPeer> {
  const peer = await rawPeer(server.port);
  cleanups.push(() => peer.destroy());
  return peer;
}

async function openPeer(server: Server): Promise<RawPeer> {
  const peer = await peerOf(server);
  peer.send(upgrade('/'));
  await peer.until('\r\n\r\n');
  return peer;
}

describe('upgrade', () => {
  test('accept answers 101 without sub-protocol or extension, whatever was offered (H11)', async () => {
    const { server, seen } = await serve();
    const peer = await peerOf(server);
    peer.send(upgrade('/', { 'Sec-WebSocket-Protocol': 'chat', 'Sec-WebSocket-Extensions': 'permessage-deflate' }));
    const answer = await peer.until('\r\n\r\n');
    expect(answer).toMatch(/^HTTP\/1\.1 101 Switching Protocols\r\n/);
    expect(answer).toContain('Sec-WebSocket-Accept: 91YOrMOF+eZsJYvHLywACBL200Q=\r\n');
    expect(answer).not.toMatch(/sec-websocket-(protocol|extensions)/i);
    expect(seen.log).toEqual(['open']);
  });

  test('refuse answers plain HTTP and keeps the connection, so that the next request may be accepted (H4)', async () => {
    let tries = 0;
    const { server, seen } = await serve({
      upgrade: (request, handle) => {
        tries += 1;
        if (request.query === undefined) handle.refuse(401, [['Content-Type', 'application/json']], '{}');
        else handle.accept(new Session('two'));
      },
    });
    const peer = await peerOf(server);
    peer.send(upgrade('/'));
    const answer = await peer.until('{}');
    expect(answer).toMatch(/401 Unauthorized.*Content-Length: 2\r\n/s);
    expect(answer).not.toMatch(/^connection:/im);
    peer.send(upgrade('/?signed'));
    await peer.until('101 Switching');
    expect({ tries, name: seen.socket?.session.name }).toEqual({ tries: 2, name: 'two' });
  });

  test('refuse with close ends the connection (F14)', async () => {
    const { server } = await serve({
      upgrade: (_request, handle) => handle.refuse(429, [['Retry-After', '30']], '', { close: true }),
    });
    const peer = await peerOf(server);
    peer.send(upgrade('/'));
    await peer.untilClosed();
    expect(peer.text()).toMatch(/429 Too Many Requests.*Retry-After: 30/s);
  });

  test('accept after an await: open runs before it returns, and what open sends follows the 101', async () => {
    const order: string[] = [];
    const { server } = await serve({
      upgrade: async (_request, handle) => {
        await new Promise((resolve) => setImmediate(resolve));
        const accepted = handle.accept(new Session('late'));
        order.push(`accepted ${accepted}`, `ended ${handle.ended}`, `again ${handle.accept(new Session('twice'))}`);
      },
      open: (socket) => {
        order.push(`open ${socket.session.name}`);
        socket.send('hello', false);
      },
    });
    const peer = await peerOf(server);
    peer.send(upgrade('/'));
    expect(await peer.until('\r\n\r\n\x81\x05hello')).toMatch(/^HTTP\/1\.1 101 /);
    expect(order).toEqual(['open late', 'accepted true', 'ended true', 'again false']);
  });

  test('a socket accepted late stays open, whatever memory its open callback takes', async () => {
    const peers = 64;
    let opened = 0;
    let closed = 0;
    const { server } = await serve({
      upgrade: async (_request, handle) => {
        await new Promise((resolve) => setImmediate(resolve));
        handle.accept(new Session('late'));
      },
      open: () => {
        opened += 1;
        // Blocks of many sizes, filled with ones: what was given back is taken again.
        for (let bytes = 8; bytes <= 512; bytes += 8) Buffer.allocUnsafeSlow(bytes).fill(0xf7);
      },
      closed: () => {
        closed += 1;
      },
    });
    for (let i = 0; i < peers; i++) await openPeer(server);
    expect({ opened, closed }).toEqual({ opened: peers, closed: 0 });
  });

  test('a peer that leaves before the 101 aborts the upgrade; accept then returns false and opens nothing (H7)', async () => {
    let pending: UpgradeHandle<Session> | undefined;
    let asked: RequestSnapshot | undefined;
    let aborts = 0;
    const { server, seen } = await serve({
      upgrade: (request, handle) => {
        asked = request;
        handle.onAborted(() => {
          aborts += 1;
        });
        pending = handle;
      },
    });
    const peer = await peerOf(server);
    peer.send(upgrade('/'));
    await eventually(() => pending !== undefined, 'upgrade asked');
    peer.destroy();
    await eventually(() => pending?.ended === true, 'aborted');
    expect(pending?.accept(new Session('gone'))).toBe(false);
    pending?.refuse(503, [], '');
    expect({ aborts, log: seen.log, address: asked?.address }).toEqual({ aborts: 1, log: [], address: '127.0.0.1' });
  });

  test('bytes before an asynchronous 101 end the connection and abort the upgrade (H13)', async () => {
    let pending: UpgradeHandle<Session> | undefined;
    const { server } = await serve({
      upgrade: (_request, handle) => {
        pending = handle;
      },
    });
    const peer = await peerOf(server);
    peer.send(upgrade('/'));
    await eventually(() => pending !== undefined, 'upgrade asked');
    peer.send(frame(TEXT, 'early'));
    await peer.untilClosed();
    expect(pending?.ended).toBe(true);
  });

  test('an error in the upgrade handler is answered 500 and reported', async () => {
    const errors: unknown[] = [];
    const { server } = await serve(
      {
        upgrade: async () => {
          throw new Error('broken');
        },
      },
      { onError: (error) => errors.push(error) },
    );
    const peer = await peerOf(server);
    peer.send(upgrade('/'));
    await peer.until('500 Internal Server Error');
    expect(errors).toEqual([new Error('broken')]);
  });

  test.each([
    ['23 characters', { 'Sec-WebSocket-Key': 'a'.repeat(23) }],
    ['25 characters', { 'Sec-WebSocket-Key': 'a'.repeat(25) }],
    ['empty', { 'Sec-WebSocket-Key': '' }],
  ])('a key that is %s falls to the plain route (H10)', async (_name, headers) => {
    const { server, seen } = await serve();
    const peer = await peerOf(server);
    peer.send(upgrade('/', headers));
    await peer.until(/401 Unauthorized.*plain/s);
    expect(seen.log).toEqual([]);
  });

  test('any GET with a key of 24 characters is offered, whatever Upgrade, Connection and version say (H9)', async () => {
    const upgrades: string[] = [];
    const { server } = await serve({
      upgrade: (request, handle) => {
        upgrades.push(request.header('upgrade'));
        handle.accept(new Session('odd'));
      },
    });
    for (const headers of [{}, { Upgrade: 'WebSocket' }, { Upgrade: 'h2c', 'Sec-WebSocket-Version': '8' }]) {
      const peer = await peerOf(server);
      peer.send(get('/', { ...headers, 'Sec-WebSocket-Key': 'a'.repeat(24) }));
      await peer.until('101 Switching');
    }
    expect(upgrades).toEqual(['', 'WebSocket', 'h2c']);
  });

  test('an upgrade on a path without a WebSocket is an ordinary request, never a 101 (S1)', async () => {
    const server = await createServer({ host: '127.0.0.1', port: 0 }).listen();
    cleanups.push(() => server.close());
    const peer = await peerOf(server);
    peer.send(upgrade('/ws'));
    expect(await peer.until('not_found')).toMatch(/^HTTP\/1\.1 404 /);
  });

  test('only the headers named by the behavior are copied', async () => {
    let error: unknown;
    const { server } = await serve(
      {
        headers: ['upgrade'],
        upgrade: (request, handle) => {
          handle.refuse(401, [], `<${request.header('upgrade')}>`);
          request.header('host');
        },
      },
      {
        onError: (thrown) => {
          error = thrown;
        },
      },
    );
    const peer = await peerOf(server);
    peer.send(upgrade('/'));
    await peer.until('<websocket>');
    expect(String(error)).toContain('host');
  });

  test('an accepted connection no longer counts against the limit of its address (S10)', async () => {
    const { server } = await serve({}, { maxPlainConnectionsPerAddress: 1 });
    const peers: RawPeer[] = [];
    for (let index = 0; index < 5; index += 1) peers.push(await openPeer(server));
    expect(server.plainConnections()).toBe(0);
    const plain = await peerOf(server);
    plain.send(get('/'));
    await plain.until('plain');
    const over = await peerOf(server);
    await over.untilClosed();
    expect(peers.some((peer) => peer.closed)).toBe(false);
  });
});

describe('messages', () => {
  test('text, binary, fragments with a ping in between (E2)', async () => {
    let controls = 0;
    const { server, seen } = await serve({
      control: () => {
        controls += 1;
      },
    });
    const peer = await openPeer(server);
    peer.send(frame(TEXT, 'käse'));
    peer.send(frame(BINARY, 'bytes'));
    peer.send(Buffer.concat([frame(TEXT, 'one ', { fin: false }), frame(PING, 'p'), frame(0, 'two'), frame(PONG, '')]));
    await eventually(() => controls === 2, 'ping and pong');
    expect(seen.log).toEqual(['open', 'text käse', 'binary bytes', 'text one two']);
    await peer.until('\x8a\x01p');
  });

  test('the message is a view: it is gone when the callback has returned (E8)', async () => {
    let kept: Buffer | undefined;
    const { server } = await serve({
      message: (_socket, bytes) => {
        kept = bytes;
      },
    });
    const peer = await openPeer(server);
    peer.send(frame(TEXT, 'mine'));
    await eventually(() => kept !== undefined, 'message');
    expect(kept?.byteLength).toBe(0);
  });

  test('the three results of send: sent, buffered, dropped; drained tells when it goes on', async () => {
    let drained = 0;
    const { server, seen } = await serve({
      maxBufferedBytes: 1_000_000,
      drained: () => {
        drained += 1;
      },
    });
    const peer = await openPeer(server);
    peer.socket.pause();
    const results = new Map<number, number>();
    const chunk = 'x'.repeat(100_000);
    for (let sends = 0; sends < 500 && !results.has(2); sends += 1) {
      const result = seen.socket?.send(chunk, false) ?? -1;
      results.set(result, (results.get(result) ?? 0) + 1);
    }
    expect([...results.keys()].sort()).toEqual([0, 1, 2]);
    expect(seen.socket?.getBufferedAmount()).toBeGreaterThan(0);
    peer.socket.resume();
    await eventually(() => drained > 0 && seen.socket?.getBufferedAmount() === 0, 'drained');
    expect(seen.closed).toBeUndefined();
    const accepted = (results.get(0) ?? 0) + (results.get(1) ?? 0);
    await eventually(() => peer.receivedBytes() > accepted * chunk.length, 'all accepted bytes received');
  });

  test('an error in a callback closes that socket with 1011 and is reported', async () => {
    const errors: unknown[] = [];
    const { server, seen } = await serve(
      {
        message: () => {
          throw new Error('broken');
        },
      },
      { onError: (error) => errors.push(error) },
    );
    const bad = await openPeer(server);
    const good = await openPeer(server);
    bad.send(frame(TEXT, 'a'));
    await bad.until('internal error');
    expect(errors).toEqual([new Error('broken')]);
    expect(seen.closed).toMatchObject({ code: 1011 });
    expect(good.closed).toBe(false);
  });

  test('a frame in the same segment as the handshake is lost by the transport, later ones are not', async () => {
    const { server, seen } = await serve();
    const peer = await peerOf(server);
    peer.send(Buffer.concat([Buffer.from(upgrade('/')), frame(TEXT, 'first')]));
    await peer.until('\r\n\r\n');
    peer.send(frame(TEXT, 'second'));
    await eventually(() => seen.log.length > 1, 'message');
    expect(seen.log).toEqual(['open', 'text second']);
  });
});

describe('close', () => {
  test('our close frame carries code and reason; the close callback runs before end returns', async () => {
    const { server, seen } = await serve();
    const peer = await openPeer(server);
    const session = seen.socket?.session;
    seen.socket?.end(1001, 'draining');
    expect(seen.closed).toEqual({ session, code: 1001, reason: 'draining' });
    await peer.until('\x88\x0a\x03\xe9draining');
    await peer.untilClosed();
    expect(() => seen.socket?.send('late', false)).toThrow();
    expect(seen.socket?.session).toBe(session);
  });

  test('close drops without a close frame, and its callback runs before it returns', async () => {
    const { server, seen } = await serve();
    const peer = await openPeer(server);
    const before = peer.receivedBytes();
    seen.socket?.close();
    expect(seen.closed?.code).toBe(1006);
    await peer.untilClosed();
    expect(peer.receivedBytes()).toBe(before);
  });

  test("the peer's code and reason arrive; without a code it is 1005", async () => {
    for (const [payload, code, reason] of [
      [Buffer.from('\x03\xe8bye', 'latin1'), 1000, 'bye'],
      [Buffer.alloc(0), 1005, ''],
    ] as const) {
      const { server, seen } = await serve();
      const peer = await openPeer(server);
      peer.send(frame(CLOSE, payload));
      await eventually(() => seen.closed !== undefined, 'closed');
      expect(seen.closed).toMatchObject({ code, reason });
      expect(dropCauseOf(code, reason)).toBeUndefined();
    }
  });

  test.each([
    ['a message over the limit (E3)', frame(TEXT, 'x'.repeat(1001)), 'too_big'],
    [
      'fragments over the limit (E3)',
      Buffer.concat([frame(TEXT, 'x'.repeat(900), { fin: false }), frame(0, 'x'.repeat(900))]),
      'too_big',
    ],
    ['invalid UTF-8 (E6)', frame(TEXT, Buffer.from([0xc3, 0x28])), 'bad_utf8'],
    [
      'UTF-8 broken across fragments (E6)',
      Buffer.concat([frame(TEXT, Buffer.from([0xc3]), { fin: false }), frame(0, '(')]),
      'bad_utf8',
    ],
    ['RSV1 (E6)', frame(TEXT, 'a', { rsv: 4 }), 'bad_frame'],
    ['RSV3 (E6)', frame(TEXT, 'a', { rsv: 1 }), 'bad_frame'],
    ['a reserved data opcode (E6)', frame(3, 'a'), 'bad_frame'],
    ['a reserved control opcode (E6)', frame(11, 'a'), 'bad_frame'],
    ['a ping of 126 bytes', frame(PING, 'a'.repeat(126)), 'bad_frame'],
    ['a continuation of nothing', frame(0, 'a'), 'bad_frame'],
    [
      'a text inside a fragmented text',
      Buffer.concat([frame(TEXT, 'a', { fin: false }), frame(TEXT, 'b')]),
      'bad_frame',
    ],
  ])('%s drops that connection without a close frame, others stay', async (_name, bytes, cause) => {
    const { server, seen } = await serve();
    const other = await openPeer(server);
    const peer = await openPeer(server);
    const before = peer.receivedBytes();
    peer.send(bytes);
    await peer.untilClosed();
    await eventually(() => seen.closed !== undefined, 'closed');
    const { code = 0, reason = '' } = seen.closed ?? {};
    expect({ code, cause: dropCauseOf(code, reason), session: seen.closed?.session.name }).toEqual({
      code: 1006,
      cause,
      session: 'one',
    });
    expect(peer.receivedBytes()).toBe(before);
    expect(seen.log.filter((entry) => entry.startsWith('text'))).toEqual([]);
    expect(other.closed).toBe(false);
  });

  test('a close code out of range counts as a bad frame, answered by an empty close frame', async () => {
    const { server, seen } = await serve();
    const peer = await openPeer(server);
    peer.send(frame(CLOSE, Buffer.from([0x03, 0xe7])));
    await peer.until('\x88\x00');
    await peer.untilClosed();
    expect(dropCauseOf(seen.closed?.code ?? 0, seen.closed?.reason ?? '')).toBe('bad_frame');
  });

  test('a message of exactly the limit is delivered (E3)', async () => {
    const { server, seen } = await serve();
    const peer = await openPeer(server);
    peer.send(frame(TEXT, 'x'.repeat(1000)));
    await eventually(() => seen.log.length > 1, 'message');
    expect(seen.closed).toBeUndefined();
  });

  test.each([
    ['FIN', (peer: RawPeer) => void peer.socket.end()],
    ['reset', (peer: RawPeer) => void peer.socket.resetAndDestroy()],
  ])('a peer gone by %s is told as such', async (_name, leave) => {
    const { server, seen } = await serve();
    const peer = await openPeer(server);
    leave(peer);
    await eventually(() => seen.closed !== undefined, 'closed');
    const { code = 0, reason = '' } = seen.closed ?? {};
    expect(dropCauseOf(code, reason)).toBe('peer_gone');
  });

  test('closing the server closes its sockets, callbacks included', async () => {
    const { server, seen } = await serve();
    const peer = await openPeer(server);
    server.stopListening();
    expect(seen.closed).toBeUndefined();
    server.close();
    expect(seen.closed?.code).toBe(1006);
    await peer.untilClosed();
  });
});
