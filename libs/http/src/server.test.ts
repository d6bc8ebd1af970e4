import { connect } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { createServer, ListenError, type ServerBuilder } from './server.ts';
import { eventually, get, type RawPeer, rawPeer, request } from './testing/raw-peer.ts';
import type { RequestSnapshot, ResponseHandle, Server, ServerOptions } from './types.ts';

const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

async function serve(
  build: (builder: ServerBuilder) => unknown,
  options: Partial<ServerOptions> = {},
): Promise<Server> {
  const builder = createServer({ host: '127.0.0.1', port: 0, ...options });
  build(builder);
  const server = await builder.listen();
  cleanups.push(() => server.close());
  return server;
}

async function peerOf(server: Server, localAddress?: string): Promise<RawPeer> {
  const peer = await rawPeer(server.port, '127.0.0.1', localAddress);
  cleanups.push(() => peer.destroy());
  return peer;
}

function nextTick(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

describe('requests', () => {
  test('a request is complete and unchanged after an await (H7, H8)', async () => {
    const server = await serve((it) =>
      it.route('ANY', '/v1/:kind/:code', async (request, response) => {
        await nextTick();
        const { method, path, query, params, address } = request;
        response.send(
          200,
          [],
          JSON.stringify({ method, path, query, params, address, header: request.header('x-one') }),
        );
      }),
    );
    const peer = await peerOf(server);
    peer.send(request('PUT', '/v1/a%2Fb/c%20d?n=a+b%2Bc&n', { 'X-One': ' 1 ' }));
    const answer = await peer.until('}');
    expect(JSON.parse(answer.slice(answer.indexOf('{')))).toEqual({
      method: 'PUT',
      path: '/v1/a%2Fb/c%20d',
      query: 'n=a+b%2Bc&n',
      params: ['a%2Fb', 'c%20d'],
      address: '127.0.0.1',
      header: '1',
    });
  });

  test('no question mark and a bare one can be told apart (H8)', async () => {
    const server = await serve((it) =>
      it.route('GET', '/*', ({ query }, response) => response.send(200, [], `<${query}>`)),
    );
    const peer = await peerOf(server);
    peer.send(get('/a') + get('/a?'));
    await peer.until(/<undefined>.*<>/s);
  });

  test('only named headers are copied when a list is given, and asking for another is an error of ours', async () => {
    const errors: unknown[] = [];
    const server = await serve(
      (it) =>
        it
          .route('GET', '/named', (request, response) => response.send(200, [], request.header('x-one')))
          .route('GET', '/absent', (request, response) => response.send(200, [], `<${request.header('x-two')}>`))
          .route('GET', '/unnamed', (request, response) => response.send(200, [], request.header('accept'))),
      { headers: ['x-one', 'x-two'], onError: (error) => errors.push(error) },
    );
    const peer = await peerOf(server);
    peer.send(get('/named', { 'X-One': 'first' }) + get('/absent') + get('/unnamed'));
    await peer.until(/first.*<>.*HTTP\/1.1 500/s);
    expect(errors).toEqual([expect.objectContaining({ message: expect.stringContaining('accept') })]);
  });

  test('repeated headers arrive joined', async () => {
    const server = await serve((it) =>
      it.route('GET', '/', (request, response) => response.send(200, [], request.header('via'))),
    );
    const peer = await peerOf(server);
    peer.send('GET / HTTP/1.1\r\nHost: a\r\nVia: one\r\nVia: two\r\n\r\n');
    await peer.until('one, two');
  });

  test('pipelined requests are answered in order on one connection', async () => {
    const server = await serve((it) =>
      it.route('GET', '/*', ({ path }, response) => response.send(200, [], `<${path}>`)),
    );
    const peer = await peerOf(server);
    peer.send(get('/1') + get('/2') + get('/3'));
    const answer = await peer.until('</3>');
    expect(answer.match(/<\/\d>/g)).toEqual(['</1>', '</2>', '</3>']);
    expect(peer.closed).toBe(false);
  });

  test('what no route takes is answered 404, or by the given handler', async () => {
    const plain = await peerOf(await serve((it) => it.route('GET', '/a', () => undefined)));
    plain.send(get('/b'));
    await plain.until(/404 Not Found.*\{"error":"not_found"\}/s);

    const custom = await peerOf(
      await serve((it) =>
        it.route('GET', '/a', () => undefined).otherwise(({ method }, response) => response.send(405, [], method)),
      ),
    );
    custom.send(request('POST', '/a'));
    await custom.until(/405 Method Not Allowed.*POST/s);
  });
});

describe('answers', () => {
  test('status text, headers and exactly one Content-Length', async () => {
    const server = await serve((it) =>
      it.route('GET', '/', async (_request, response) => {
        await nextTick();
        response.send(503, [['Retry-After', '5']], Buffer.from('größe'));
      }),
    );
    const peer = await peerOf(server);
    peer.send(get('/'));
    const answer = await peer.until('gr');
    expect(answer).toMatch(/^HTTP\/1\.1 503 Service Unavailable\r\n/);
    expect(answer).toContain('Retry-After: 5\r\n');
    expect(answer.match(/content-length: \d+/gi)).toEqual(['Content-Length: 7']);
    expect(answer).not.toMatch(/^connection:/im);
  });

  test('the connection closes when the answer says so, after the answer', async () => {
    const server = await serve((it) =>
      it.route('GET', '/', (_request, response) => response.send(429, [], 'busy', { close: true })),
    );
    const peer = await peerOf(server);
    peer.send(get('/'));
    await peer.untilClosed();
    expect(peer.text()).toMatch(/Connection: close\r\n.*busy$/s);
  });

  test('HEAD, 204 and 304 have no body, and the connection goes on', async () => {
    const server = await serve((it) =>
      it
        .route('ANY', '/body', (_request, response) => response.send(200, [], 'hello', { close: false }))
        .route('GET', '/204', (_request, response) => response.send(204, [], ''))
        .route('GET', '/304', (_request, response) => response.send(304, [], 'ignored'))
        .route('GET', '/end', (_request, response) => response.send(200, [], 'end')),
    );
    const peer = await peerOf(server);
    peer.send(request('HEAD', '/body') + get('/204') + get('/304') + get('/end'));
    const [head, noContent, notModified, end] = (await peer.until(/end$/)).split(/(?=HTTP\/1\.1 )/);
    expect(head).toMatch(/^HTTP\/1\.1 200 OK\r\n.*Content-Length: 5\r\n.*\r\n\r\n$/s);
    expect(noContent).toMatch(/^HTTP\/1\.1 204 No Content\r\n(?!.*Content-Length).*\r\n\r\n$/s);
    expect(notModified).toMatch(/^HTTP\/1\.1 304 Not Modified\r\n(?!.*Content-Length).*\r\n\r\n$/s);
    expect(end).toMatch(/\r\n\r\nend$/);
  });

  test('a header that would forge another is refused (T21)', async () => {
    const errors: unknown[] = [];
    const server = await serve(
      (it) =>
        it.route('GET', '/*', ({ query }, response) =>
          response.send(200, [['X-Echo', decodeURIComponent(query ?? '')]], 'ok'),
        ),
      { onError: (error) => errors.push(error) },
    );
    const peer = await peerOf(server);
    peer.send(get('/?a%0d%0aSet-Cookie:%20b=c'));
    expect(await peer.until('"internal"')).not.toContain('Set-Cookie');
    expect(errors).toHaveLength(1);
  });

  test('a second answer is a no-op', async () => {
    const server = await serve((it) =>
      it.route('GET', '/*', ({ path }, response) => {
        response.send(200, [], `<${path}>`);
        response.send(500, [], 'never');
        expect(response.ended).toBe(true);
      }),
    );
    const peer = await peerOf(server);
    peer.send(get('/1') + get('/2'));
    const answer = await peer.until('</2>');
    expect(answer).not.toContain('never');
  });

  test('an error thrown or rejected is reported once with its request and answered 500', async () => {
    const reports: { error: unknown; path: string | undefined }[] = [];
    const server = await serve(
      (it) =>
        it
          .route('GET', '/throw', () => {
            throw new Error('thrown');
          })
          .route('GET', '/reject', async () => {
            await nextTick();
            throw new Error('rejected');
          })
          .route('GET', '/late', (_request, response) => {
            response.send(200, [], 'answered');
            throw new Error('late');
          }),
      { onError: (error, request) => reports.push({ error, path: request?.path }) },
    );
    for (const path of ['/throw', '/reject', '/late']) {
      const peer = await peerOf(server);
      peer.send(get(path));
      await peer.until(path === '/late' ? 'answered' : /500 Internal Server Error.*\{"error":"internal"\}/s);
    }
    expect(reports).toEqual([
      { error: new Error('thrown'), path: '/throw' },
      { error: new Error('rejected'), path: '/reject' },
      { error: new Error('late'), path: '/late' },
    ]);
  });

  test('when the peer leaves first, the abort callback runs once and every method is a no-op', async () => {
    let aborts = 0;
    let handle: ResponseHandle | undefined;
    const server = await serve((it) =>
      it.route('GET', '/', (_request, response) => {
        response.onAborted(() => {
          aborts += 1;
        });
        handle = response;
      }),
    );
    const peer = await peerOf(server);
    peer.send(get('/'));
    await eventually(() => handle !== undefined, 'handler called');
    peer.destroy();
    await eventually(() => handle?.ended === true, 'aborted');
    handle?.send(200, [], 'nobody');
    expect(await handle?.readBody(10)).toEqual({ status: 'aborted' });
    const stream = handle?.stream(200, []);
    expect(stream?.ended).toBe(true);
    stream?.write('nobody');
    stream?.end();
    expect(aborts).toBe(1);
  });

  test('an error in an abort callback is reported and harms nobody', async () => {
    const errors: unknown[] = [];
    const server = await serve(
      (it) =>
        it
          .route('GET', '/', (_request, response) =>
            response.onAborted(() => {
              throw new Error('broken');
            }),
          )
          .route('GET', '/other', (_request, response) => response.send(200, [], 'here')),
      { onError: (error) => errors.push(error) },
    );
    const peer = await peerOf(server);
    peer.send(get('/'));
    await eventually(() => server.plainConnections() === 1, 'connected');
    const other = await peerOf(server);
    other.send(get('/other'));
    await other.until('here');
    peer.destroy();
    await eventually(() => errors.length > 0, 'reported');
    expect(errors).toEqual([new Error('broken')]);
    other.send(get('/other'));
    await other.until(/here.*here/s);
  });

  test('a normal end runs no abort callback', async () => {
    let aborts = 0;
    const server = await serve((it) =>
      it.route('GET', '/', async (_request, response) => {
        response.onAborted(() => {
          aborts += 1;
        });
        await nextTick();
        response.send(200, [], 'done');
      }),
    );
    const peer = await peerOf(server);
    peer.send(get('/'));
    await peer.until('done');
    peer.destroy();
    await eventually(() => server.plainConnections() === 0, 'closed');
    expect(aborts).toBe(0);
  });
});

describe('large answers', () => {
  const MiB = 1024 * 1024;
  const large = Buffer.alloc(24 * MiB, 'abcdefgh');
  const serveLarge = (options: Partial<ServerOptions> = {}): Promise<Server> =>
    serve(
      (it) =>
        it
          .route('GET', '/large', (_request, response) => response.send(200, [], large))
          .route('GET', '/later', async (_request, response) => {
            await nextTick();
            response.send(200, [], large);
          }),
      options,
    );

  test('an answer larger than what the kernel takes arrives whole, however late it is read, and the connection goes on', async () => {
    const server = await serveLarge();
    for (const path of ['/large', '/later']) {
      const socket = connect(server.port, '127.0.0.1');
      cleanups.push(() => socket.destroy());
      socket.write(get(path));
      // Read when the kernel has taken all it takes.
      await eventually(() => server.unread().bytes === large.length, 'waiting for its reader');
      const chunks: Buffer[] = [];
      let bytes = 0;
      socket.on('data', (chunk) => {
        chunks.push(chunk);
        bytes += chunk.length;
      });
      await eventually(() => bytes > large.length, 'all of it');
      const read = Buffer.concat(chunks);
      expect(read.toString('latin1', 0, 200)).toContain(`\r\nContent-Length: ${large.length}\r\n`);
      expect(read.subarray(read.indexOf('\r\n\r\n') + 4).equals(large)).toBe(true);
      expect(server.unread()).toEqual({ bytes: 0, dropped: 0 });
      socket.write(get('/nothing'));
      await eventually(() => bytes > read.length, 'the next answer');
    }
  });

  test('readers of large answers who read nothing hold no more than the bound; those that wait for longest are dropped (I4.5)', async () => {
    const server = await serveLarge({ maxUnreadBytes: 60 * MiB });
    for (let i = 0; i < 4; i++) {
      const socket = connect(server.port, '127.0.0.1');
      cleanups.push(() => socket.destroy());
      socket.pause();
      socket.on('error', () => undefined);
      socket.write(get('/large'));
      const waiting = Math.min(i + 1, 2);
      await eventually(
        () => server.unread().bytes === waiting * large.length && server.unread().dropped === Math.max(0, i - 1),
        `${i + 1} asked`,
      );
      expect(server.plainConnections()).toBe(waiting);
    }
  });

  test('a reader that leaves in the middle gives back what its answer held', async () => {
    const server = await serveLarge();
    const socket = connect(server.port, '127.0.0.1');
    socket.pause();
    socket.write(get('/large'));
    await eventually(() => server.unread().bytes > 0, 'waiting');
    socket.destroy();
    await eventually(() => server.unread().bytes === 0, 'given back');
  });

  test('what comes after a large answer has begun is a no-op', async () => {
    let after: boolean | undefined;
    const server = await serve(
      (it) =>
        it.route('GET', '/', (_request, response) => {
          response.send(200, [], large);
          response.send(500, [], 'again');
          after = response.ended;
          throw new Error('after the answer');
        }),
      { onError: () => undefined },
    );
    const socket = connect(server.port, '127.0.0.1');
    cleanups.push(() => socket.destroy());
    let bytes = 0;
    let first = '';
    socket.on('data', (chunk) => {
      first ||= chunk.toString('latin1', 0, 12);
      bytes += chunk.length;
    });
    socket.write(get('/'));
    await eventually(() => bytes > large.length, 'all of it');
    expect([first, after]).toEqual(['HTTP/1.1 200', true]);
  });
});

describe('bodies', () => {
  const echo = (limitBytes: number) => async (_request: RequestSnapshot, response: ResponseHandle) => {
    const read = await response.readBody(limitBytes);
    if (read.status === 'read') response.send(200, [], Buffer.concat([Buffer.from('<'), read.body, Buffer.from('>')]));
    else response.send(413, [], read.status);
  };

  test('a body of exactly the limit is read, one byte more is too large and closes the connection', async () => {
    const server = await serve((it) => it.route('POST', '/', echo(5)));
    const exact = await peerOf(server);
    exact.send(request('POST', '/', { 'Content-Length': '5' }, 'abcde'));
    await exact.until('<abcde>');
    const over = await peerOf(server);
    over.send(request('POST', '/', { 'Content-Length': '6' }, 'abcdef'));
    await over.untilClosed();
    expect(over.text()).toMatch(/413.*too_large$/s);
  });

  test('too large is known before the rest has come', async () => {
    const server = await serve((it) => it.route('POST', '/', echo(5)));
    const peer = await peerOf(server);
    peer.send(request('POST', '/', { 'Content-Length': '1000000' }, 'abcdef'));
    await peer.until('too_large');
  });

  test('a chunked body is read, in whatever pieces it comes', async () => {
    const server = await serve((it) => it.route('POST', '/', echo(100_000)));
    const peer = await peerOf(server);
    peer.send(request('POST', '/', { 'Transfer-Encoding': 'chunked' }, '3\r\nabc\r\n'));
    await nextTick();
    for (const byte of '10\r\n0123456789abcdef\r\n0\r\n\r\n') {
      peer.send(byte);
      await nextTick();
    }
    await peer.until('<abc0123456789abcdef>');
    peer.send(request('POST', '/', { 'Content-Length': '3' }, 'xyz'));
    await peer.until('<xyz>');
  });

  test('a large body in many segments arrives whole', async () => {
    const body = Array.from({ length: 20_000 }, (_, index) => String(index).padStart(5, '0')).join('');
    const server = await serve((it) =>
      it.route('POST', '/', async (_request, response) => {
        const read = await response.readBody(1_000_000);
        response.send(200, [], read.status === 'read' && read.body.toString() === body ? 'same' : 'different');
      }),
    );
    const peer = await peerOf(server);
    peer.send(request('POST', '/', { 'Content-Length': String(body.length) }));
    for (let offset = 0; offset < body.length; offset += 997) peer.send(body.slice(offset, offset + 997));
    await peer.until('same');
  });

  test('no body is an empty body', async () => {
    const server = await serve((it) => it.route('ANY', '/', echo(5)));
    const peer = await peerOf(server);
    peer.send(get('/'));
    await peer.until('<>');
  });

  test('a peer that leaves in the middle ends the wait as aborted', async () => {
    let result: unknown;
    const server = await serve((it) =>
      it.route('POST', '/', async (_request, response) => {
        result = await response.readBody(100);
      }),
    );
    const peer = await peerOf(server);
    peer.send(request('POST', '/', { 'Content-Length': '10' }, 'abc'));
    await eventually(() => server.plainConnections() === 1, 'connected');
    await nextTick();
    peer.destroy();
    await eventually(() => result !== undefined, 'settled');
    expect(result).toEqual({ status: 'aborted' });
  });
});

describe('listening', () => {
  test('a second server cannot share the port and is told host and port', async () => {
    // A port that the kernel chose is never shared; one that was asked for is, unless it is taken exclusively.
    const { port, close } = await serve((it) => it);
    close();
    await serve((it) => it, { port });
    const second = createServer({ host: '127.0.0.1', port }).listen();
    await expect(second).rejects.toThrow(ListenError);
    await expect(second).rejects.toMatchObject({
      host: '127.0.0.1',
      port,
      message: expect.stringContaining(`127.0.0.1:${port}`),
    });
  });

  test('port 0 takes a free port and names it', async () => {
    const first = await serve((it) => it);
    const second = await serve((it) => it);
    expect(first.port).toBeGreaterThan(0);
    expect(second.port).not.toBe(first.port);
  });

  test('stopListening refuses new connections and leaves open ones; close drops those', async () => {
    const server = await serve((it) => it.route('GET', '/', (_request, response) => response.send(200, [], 'here')));
    const peer = await peerOf(server);
    peer.send(get('/'));
    await peer.until('here');
    server.stopListening();
    server.stopListening();
    await expect(rawPeer(server.port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    peer.send(get('/'));
    await peer.until(/here.*here/s);
    server.close();
    await peer.untilClosed();
    server.close();
    server.stopListening();
  });

  test('the port is free again after close', async () => {
    const first = await serve((it) => it);
    first.close();
    const second = await serve((it) => it, { port: first.port });
    expect(second.port).toBe(first.port);
  });
});

describe('connection limits (S10)', () => {
  const pending = (it: ServerBuilder): unknown =>
    it
      .route('GET', '/pending', () => undefined)
      .route('GET', '/close', (_request, response) => response.send(200, [], 'closing', { close: true }))
      .route('GET', '/*', (_request, response) => response.send(200, [], 'here'));

  test('beyond the limit of an address a connection is closed at once; another address is not concerned', async () => {
    const server = await serve(pending, { maxPlainConnectionsPerAddress: 2 });
    const silent = await peerOf(server);
    const busy = await peerOf(server);
    busy.send(get('/pending'));
    await eventually(() => server.plainConnections() === 2, 'two open');
    const third = await peerOf(server);
    await third.untilClosed();
    const other = await peerOf(server, '127.0.0.2');
    other.send(get('/'));
    await other.until('here');

    silent.destroy();
    await eventually(() => server.plainConnections() === 2, 'one left');
    const fourth = await peerOf(server);
    fourth.send(get('/'));
    await fourth.until('here');
    expect(busy.closed).toBe(false);
  });

  test('a connection that closes after its answer makes room again', async () => {
    const server = await serve(pending, { maxPlainConnectionsPerAddress: 1 });
    for (let round = 0; round < 5; round += 1) {
      const peer = await peerOf(server);
      peer.send(get(round % 2 === 0 ? '/' : '/close'));
      await peer.until(round % 2 === 0 ? 'here' : 'closing');
      peer.destroy();
      await eventually(() => server.plainConnections() === 0, 'closed');
    }
  });

  test('the limit over all addresses', async () => {
    const server = await serve(pending, { maxPlainConnections: 2 });
    const first = await peerOf(server, '127.0.0.2');
    await peerOf(server, '127.0.0.3');
    await eventually(() => server.plainConnections() === 2, 'two open');
    const third = await peerOf(server, '127.0.0.4');
    await third.untilClosed();
    first.destroy();
    await eventually(() => server.plainConnections() === 1, 'one left');
    const fourth = await peerOf(server, '127.0.0.4');
    fourth.send(get('/'));
    await fourth.until('here');
  });
});

describe('addresses', () => {
  const PROXY_HEADER = Buffer.from('0d0a0d0a000d0a515549540a2111000c0a010203c0000201123404d2', 'hex');
  const say = (it: ServerBuilder): unknown =>
    it.route('GET', '/', ({ address }, response) => response.send(200, [], `<${address}>`));

  test('a PROXY header changes the address only when a trusted proxy sends it (T20)', async () => {
    for (const [proxies, expected] of [
      [[], '<127.0.0.1>'],
      [['10.0.0.0/8'], '<127.0.0.1>'],
      [['127.0.0.0/8'], '<10.1.2.3>'],
    ] as const) {
      const peer = await peerOf(await serve(say, { proxies }));
      peer.send(Buffer.concat([PROXY_HEADER, Buffer.from(get('/'))]));
      await peer.until(expected);
    }
  });

  test('an address read before the peer left stays; one first read afterwards is empty', async () => {
    const requests: RequestSnapshot[] = [];
    const early: string[] = [];
    const server = await serve((it) =>
      it
        .route('GET', '/early', (request) => {
          early.push(request.address);
          requests.push(request);
        })
        .route('GET', '/late', (request) => void requests.push(request)),
    );
    for (const path of ['/early', '/late']) {
      const peer = await peerOf(server);
      peer.send(get(path));
      await eventually(() => requests.at(-1)?.path === path, path);
      peer.destroy();
      await eventually(() => server.plainConnections() === 0, 'gone');
    }
    expect(requests.map((request) => request.address)).toEqual(['127.0.0.1', '']);
    expect(early).toEqual(['127.0.0.1']);
  });

  test('an IPv4 peer of a dual-stack listener has a plain IPv4 address', async () => {
    const peer = await peerOf(await serve(say, { host: '::' }));
    peer.send(get('/'));
    await peer.until('<127.0.0.1>');
  });
});
