/** What connections by way of sentinels promise while some of these are silent. The sentinels are made up, so that what they say comes in the
 *  order that hurts; the master is a real Redis. */

import { createServer, type Server, type Socket } from 'node:net';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { closeConnection, masterOf, openConnection, openNode, ready } from './index.ts';

/** Answers like a sentinel that knows one master. */
class Sentinel {
  silent = false;
  /** While it was silent. */
  unanswered = 0;
  readonly #master: () => number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #listeners = new Set<Socket>();

  constructor(master: () => number) {
    this.#master = master;
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        this.#listeners.delete(socket);
      });
      socket.on('data', (bytes: Buffer) => this.#answer(socket, bytes.toString()));
    });
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new TypeError('a TCP server has a port');
    return `127.0.0.1:${address.port}`;
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  announceFailover(): void {
    for (const socket of this.#listeners) socket.write(array('>', 'message', '+switch-master', 'broker'));
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(socket: Socket, text: string): void {
    for (const [, command] of text.matchAll(/\*\d+\r\n\$\d+\r\n(\w+)/g)) {
      if (this.silent) {
        this.unanswered += 1;
        continue;
      }
      switch (command?.toLowerCase()) {
        case 'sentinel':
          socket.write(array('*', '127.0.0.1', String(this.#master())));
          break;
        case 'subscribe':
          this.#listeners.add(socket);
          socket.write('>3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n');
          break;
        case 'hello':
          socket.write('%1\r\n$5\r\nproto\r\n:3\r\n');
          break;
        default:
          socket.write('+OK\r\n');
      }
    }
  }
}

function array(kind: '*' | '>', ...words: readonly string[]): string {
  return `${kind}${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join('')}`;
}

let redis: RedisServer;
const cleanups: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  redis = await startRedis();
});
afterAll(() => redis.stop());
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  vi.restoreAllMocks();
});

test('a failover that is announced while a silent sentinel is asked does not end the connection', async () => {
  const [first, second] = [new Sentinel(() => redis.port), new Sentinel(() => redis.port)];
  const addresses = await Promise.all([first.start(), second.start()]);
  cleanups.push(
    () => first.stop(),
    () => second.stop(),
  );
  const complaints = vi.spyOn(console, 'error').mockReturnValue();
  const url = `redis+sentinel://${addresses.join(',')}/broker`;
  const connection = openConnection({ url, commandTimeoutMs: 1_000 }, 'state');
  cleanups.push(() => closeConnection(connection));
  await ready(connection, 10_000);
  await waitFor(() => second.listeners === 1, { deadlineMs: 10_000, what: 'somebody to listen for a failover' });

  first.silent = true;
  await redis.command('CLIENT', 'KILL', 'TYPE', 'normal');
  await waitFor(() => first.unanswered > 0, { deadlineMs: 10_000, what: 'the silent sentinel to be asked' });
  second.announceFailover();
  await ready(connection, 10_000);
  expect(await connection.ping()).toBe('PONG');
  expect(complaints).not.toHaveBeenCalled();
});

test('a connection that ended by itself listens to no sentinel any more', async () => {
  const sentinel = new Sentinel(() => redis.port);
  const address = await sentinel.start();
  cleanups.push(() => sentinel.stop());
  const connection = openConnection({ url: `redis+sentinel://${address}/broker`, commandTimeoutMs: 1_000 }, 'state');
  cleanups.push(() => closeConnection(connection));
  await ready(connection, 10_000);
  const node = openNode(connection, 'subscriber', masterOf(connection, 'any') ?? '');
  await ready(node, 10_000);
  await waitFor(() => sentinel.listeners === 2, { deadlineMs: 10_000, what: 'both to listen' });

  await node.subscribe('channel');
  await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub');
  await waitFor(() => node.status === 'end', { deadlineMs: 10_000, what: 'the end of the connection' });
  await waitFor(() => sentinel.listeners === 1, { deadlineMs: 10_000, what: 'one to listen' });
});
