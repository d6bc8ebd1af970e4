/** OpenStack Swift with its S3 interface (`s3api`), as Debian packages it: one process each for accounts, containers, objects and the front.
 *  A real object store that speaks S3, small enough for a test. Needs a directory on a file system with extended attributes. */

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { freePort, type RunningProcess, startProcess } from '@lapi-broker/fixture';
import { AwsClient } from 'aws4fetch';
import type { S3Options } from '../s3/s3-image-store.ts';

const RINGS = ['account', 'container', 'object'] as const;
const PROGRAMS = [...RINGS.map((ring) => `/usr/bin/swift-${ring}-server`), '/usr/bin/swift-proxy-server'];
const READY_MS = 60_000;
const ACCESS_KEY = 'test:tester';
const SECRET_KEY = 'testing';

export interface SwiftServer {
  readonly options: S3Options;
  stop(): Promise<void>;
}

/** Undefined when it can be started; else what to type. */
export function missingSwift(): string | undefined {
  if (PROGRAMS.every((file) => existsSync(file))) return undefined;
  return 'OpenStack Swift not found, so S3 is not tested against a server. To do it: sudo apt-get install -y --no-install-recommends swift-proxy swift-account swift-container swift-object';
}

export async function startSwift(bucket: string): Promise<SwiftServer> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lapi-swift-'));
  const running: RunningProcess<true>[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(running.map((process) => process.kill()));
    await rm(dir, { recursive: true, force: true });
  };
  const launch = async (name: string, port: number, lines: readonly string[]): Promise<void> => {
    const file = path.join(dir, `${name}.conf`);
    const common = [
      'bind_ip = 127.0.0.1',
      `bind_port = ${port}`,
      `user = ${userInfo().username}`,
      `swift_dir = ${dir}`,
    ];
    const own = [`devices = ${dir}/devices`, 'mount_check = false', 'workers = 0', 'log_level = WARNING'];
    await writeFile(file, ['[DEFAULT]', ...common, ...own, ...lines, ''].join('\n'));
    const process = await startProcess<true>({
      name: `swift-${name}`,
      command: `/usr/bin/swift-${name}-server`,
      args: [file, '-v'],
      ready: () => undefined,
      probe: async () => {
        await fetch(`http://127.0.0.1:${port}/healthcheck`);
        return true;
      },
      readyMs: READY_MS,
    });
    running.push(process);
  };
  try {
    await mkdir(path.join(dir, 'devices', 'sdb1'), { recursive: true });
    const hashes = ['swift_hash_path_prefix = a', 'swift_hash_path_suffix = b'];
    const policy = ['name = gold', 'default = yes'];
    await writeFile(
      path.join(dir, 'swift.conf'),
      ['[swift-hash]', ...hashes, '[storage-policy:0]', ...policy, ''].join('\n'),
    );
    const servers = await Promise.all(
      RINGS.map(async (ring) => {
        const port = await freePort();
        await makeRing(path.join(dir, `${ring}.builder`), port);
        return [
          ring,
          port,
          ['[pipeline:main]', `pipeline = ${ring}-server`, `[app:${ring}-server]`, `use = egg:swift#${ring}`],
        ] as const;
      }),
    );
    const proxyPort = await freePort();
    const filters = ['catch_errors', 'cache', 'bulk', 's3api', 'tempauth', 'slo'];
    const front = [
      '[pipeline:main]',
      `pipeline = ${filters.join(' ')} proxy-server`,
      ...['[app:proxy-server]', 'use = egg:swift#proxy', 'account_autocreate = true'],
      ...filters.flatMap((name) => [`[filter:${name}]`, ...(FILTER_LINES[name] ?? [`use = egg:swift#${name}`])]),
    ];
    await Promise.all([
      launch('proxy', proxyPort, front),
      ...servers.map(([ring, port, lines]) => launch(ring, port, lines)),
    ]);
    const endpoint = new URL(`http://127.0.0.1:${proxyPort}`);
    const client = new AwsClient({
      accessKeyId: ACCESS_KEY,
      secretAccessKey: SECRET_KEY,
      service: 's3',
      region: 'us-east-1',
      retries: 0,
    });
    const made = await client.fetch(`${endpoint.origin}/${bucket}`, { method: 'PUT' });
    if (!made.ok) throw new Error(`the bucket was not made: ${made.status} ${await made.text()}`);
    const options = {
      bucket,
      prefix: 'a/b',
      endpoint,
      region: 'us-east-1',
      style: 'path',
      accessKey: ACCESS_KEY,
      secretKey: SECRET_KEY,
    } as const;
    return { options, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

const FILTER_LINES: Readonly<Record<string, readonly string[]>> = {
  // It insists on a cache, and works when nobody is there.
  cache: ['use = egg:swift#memcache', 'memcache_servers = 127.0.0.1:1'],
  tempauth: ['use = egg:swift#tempauth', 'user_test_tester = testing .admin'],
  s3api: ['use = egg:swift#s3api', 'location = us-east-1', 'auth_pipeline_check = false'],
};

async function makeRing(builder: string, port: number): Promise<void> {
  const run = (...args: string[]): Promise<unknown> => promisify(execFile)('swift-ring-builder', [builder, ...args]);
  await run('create', '4', '1', '1');
  await run('add', `r1z1-127.0.0.1:${port}/sdb1`, '1');
  await run('rebalance');
}
