/** Guards the choice of a Redis: what is accepted, what is asked, and how one would be installed on each kind of machine. */

import { createServer, type Server } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { checkRedisUrl, endpoints, instruction, planInstallation, serverVersion } from './redis.mjs';
import { findRedisBinary, isRecent, parseVersion } from './redis-binary.mjs';

const servers: Server[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))));
});

/** Something that answers every request with the same bytes. */
async function answering(answer: string): Promise<number> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', () => socket.write(answer));
  });
  servers.push(server);
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new TypeError('no port');
  return address.port;
}

test('Redis and Valkey tell their versions; 7.0 is the least', () => {
  expect(parseVersion('Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64')).toBe('7.0.15');
  expect(parseVersion('Valkey server v=8.1.1 sha=0')).toBe('8.1.1');
  expect(parseVersion('zsh: command not found')).toBeUndefined();
  expect([isRecent('6.2.14'), isRecent('7.0.0'), isRecent('10.1.0')]).toEqual([false, true, true]);
});

test('a program that is named but not there is not found', () => {
  expect(findRedisBinary({ LAPI_REDIS_SERVER: '/nowhere/redis-server', PATH: '' })).toEqual({
    file: undefined,
    rejected: [],
  });
});

test('an address names its servers, with the port of its kind where none is given', () => {
  const plain = { tls: false, username: '', password: '' };
  expect(endpoints('redis://h')).toEqual([{ host: 'h', port: 6379, ...plain }]);
  expect(endpoints('rediss://u:p%40@h:1/2')).toEqual([
    { host: 'h', port: 1, tls: true, username: 'u', password: 'p@' },
  ]);
  expect(endpoints('redis://:secret@[::1]:7')).toEqual([
    { host: '::1', port: 7, tls: false, username: '', password: 'secret' },
  ]);
  expect(endpoints('redis+sentinel://a,b:2/name').map(({ host, port }) => [host, port])).toEqual([
    ['a', 26379],
    ['b', 2],
  ]);
  expect(endpoints('redis+cluster://a:1,b:2,c:3')).toHaveLength(3);
});

test('a server of a recent version is accepted; an old one, a refusal and a silent port are told apart', async () => {
  const facts = (version: string): string => {
    const text = `# Server\r\nredis_version:${version}\r\n`;
    return `$${text.length}\r\n${text}\r\n`;
  };
  const recent = await answering(facts('7.2.4'));
  const old = await answering(facts('6.0.16'));
  const locked = await answering('-NOAUTH Authentication required.\r\n');
  await checkRedisUrl(`redis://127.0.0.1:${recent}`);
  await expect(checkRedisUrl(`redis://127.0.0.1:${old}`)).rejects.toThrow('has version 6.0.16; 7.0 or later is needed');
  await expect(checkRedisUrl(`redis://127.0.0.1:${locked}`)).rejects.toThrow('NOAUTH');
  await expect(checkRedisUrl('redis://127.0.0.1:1')).rejects.toThrow('ECONNREFUSED');
  await checkRedisUrl(`redis+cluster://127.0.0.1:1,127.0.0.1:${recent}`);
});

test('a server that is no Redis is given up on', async () => {
  const port = await answering('x'.repeat(70_000));
  await expect(serverVersion({ host: '127.0.0.1', port, tls: false, username: '', password: '' })).rejects.toThrow(
    'not a Redis',
  );
});

const programs =
  (...names: string[]) =>
  (name: string): boolean =>
    names.includes(name);

test('on Debian the tools are installed, never the service, and only without a password', () => {
  const debian = { platform: 'linux', has: programs('apt-get', 'sudo') };
  const asRoot = planInstallation({ ...debian, isRoot: true, sudoWithoutPassword: () => false });
  expect(asRoot?.commands.at(-1)).toEqual(expect.arrayContaining(['install', 'redis-tools']));
  expect(asRoot?.commands.flat()).not.toContain('sudo');
  expect(asRoot?.commands.flat()).not.toContain('redis-server');
  const asUser = planInstallation({ ...debian, isRoot: false, sudoWithoutPassword: () => true });
  expect(asUser?.commands.every((command) => command[0] === 'sudo' && command[1] === '-n')).toBe(true);
  expect(planInstallation({ ...debian, isRoot: false, sudoWithoutPassword: () => false })).toBeUndefined();
});

test('without sudo nobody is asked for a password by trying it', () => {
  const asked = (): boolean => {
    throw new Error('sudo was tried');
  };
  expect(
    planInstallation({ platform: 'linux', has: programs('apt-get'), isRoot: false, sudoWithoutPassword: asked }),
  ).toBeUndefined();
});

test('where nothing can be installed, one command is told', () => {
  expect(instruction({ platform: 'linux', has: programs('apt-get') })).toContain('sudo apt-get install -y redis-tools');
  expect(instruction({ platform: 'linux', has: programs('dnf') })).toContain('sudo dnf install -y valkey');
  expect(instruction({ platform: 'darwin', has: programs() })).toContain('brew install redis');
  expect(instruction({ platform: 'win32', has: programs() })).toContain('REDIS_URL');
});
