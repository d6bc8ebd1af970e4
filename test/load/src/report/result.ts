/** Writes what a measurement found: one JSON file under test/load/result, with everything that is needed to judge it later: machine,
 *  versions, commit, settings, and the figure of every round. */

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { type RedisServer, redisCommand } from '@lapi-broker/fixture';

const root = fileURLToPath(new URL('../../../../', import.meta.url));

export interface Surroundings {
  readonly date: string;
  readonly commit: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly loadAtStart: number;
  readonly kernel: string;
  readonly versions: Readonly<Record<string, string>>;
}

function output(command: string, args: readonly string[]): string {
  try {
    return execFileSync(command, args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return 'unknown';
  }
}

function commit(): string {
  const id = output('git', ['rev-parse', '--short=12', 'HEAD']);
  return output('git', ['status', '--porcelain', '--untracked-files=no']) === '' ? id : `${id} with changes`;
}

function versionOf(name: string): string {
  const manifest: unknown = JSON.parse(readFileSync(path.join(root, 'node_modules', name, 'package.json'), 'utf8'));
  return (manifest as { version: string }).version;
}

const COMPARED = ['uWebSockets.js', 'ioredis', 'bullmq', 'socket.io', '@socket.io/redis-adapter'];

export async function surroundings(redis: RedisServer): Promise<Surroundings> {
  const server = String(await redisCommand(redis.port, 'INFO', 'server'));
  const packages = Object.fromEntries(COMPARED.map((name) => [name, versionOf(name)]));
  return {
    date: new Date().toISOString(),
    commit: commit(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    loadAtStart: loadavg()[0] as number,
    kernel: output('uname', ['-sr']),
    versions: {
      node: process.versions.node,
      redis: /^redis_version:(\S+)/m.exec(server)?.[1] ?? 'unknown',
      ...packages,
    },
  };
}

/** Answers the path of the file. */
export function writeResult(name: string, result: unknown): string {
  const dir = path.join(root, 'test', 'load', 'result');
  mkdirSync(dir, { recursive: true });
  const file = path.join(dir, `${name}.json`);
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
  return path.relative(root, file);
}
