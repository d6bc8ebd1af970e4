/** Runs Lua scripts by their SHA-1, so that the text travels once per server and not once per call.
 *  A server that does not know the script (restart, failover, new master, SCRIPT FLUSH) ran nothing, so loading it and calling again is safe;
 *  this is the only repetition. EVAL is not used: an ACL may forbid it and still allow EVALSHA and SCRIPT LOAD.
 *  Scripts that share definitions name a file beside them in a line `--#include name.lua`, or one of this package in a line
 *  `--#include redis/name.lua`; its text takes the place of the line.
 *  Redis away: rejects with `broker_unavailable`; whether the script ran is then unknown, which is why mutating scripts carry `notAfter` (D7). */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isCluster, type NodeConnection, nodeFor, type RedisConnection } from './connection.ts';
import { toBrokerError } from './guard.ts';

export type ScriptArgument = string | number | Buffer;
/** Declared keys must share one hash tag. Buffers arrive in the script byte by byte as they are. */
export type Script<Reply = unknown> = (keys: readonly string[], args: readonly ScriptArgument[]) => Promise<Reply>;

export interface ScriptOptions {
  /** How bulk strings of the reply come back: as text, or as Buffers where they may hold bytes that are no UTF-8. */
  readonly replies?: 'text' | 'buffer';
}

/** ioredis has this method for every command and leaves a few out of its types. */
type BufferReplies = RedisConnection & { evalshaBuffer(...args: ScriptArgument[]): Promise<unknown> };

interface Source {
  readonly text: string;
  readonly sha: string;
}

const INCLUDE = /^--#include (redis\/)?([a-z-]+\.lua)$/gm;
const SHARED = new URL('./lua/', import.meta.url);
const sources = new Map<string, Source>();
/** A load can be overtaken by a failover once; a second time in one call means that scripts cannot be kept at all. */
const MAX_LOADS = 2;

export function createScript(
  connection: RedisConnection,
  file: URL,
  keyCount: number,
  options: ScriptOptions = {},
): Script {
  const source = read(file);
  const buffers = options.replies === 'buffer';
  let loading: Promise<void> | undefined;

  const call = (keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> => {
    const node = nodeFor(connection, keys[0] ?? '');
    if (node !== undefined) gather(node.stream);
    return buffers
      ? (connection as BufferReplies).evalshaBuffer(source.sha, keyCount, ...keys, ...args)
      : connection.evalsha(source.sha, keyCount, ...keys, ...args);
  };
  const load = (): Promise<void> => {
    loading ??= loadEverywhere(connection, source).finally(() => {
      loading = undefined;
    });
    return loading;
  };

  return async (keys, args) => {
    if (keys.length !== keyCount) throw new RangeError(`script takes ${keyCount} keys, not ${keys.length}`);
    for (let loads = 0; ; loads++) {
      try {
        return await call(keys, args);
      } catch (error) {
        if (loads === MAX_LOADS || !(error instanceof Error) || !error.message.startsWith('NOSCRIPT'))
          throw toBrokerError(error);
      }
      try {
        await load();
      } catch (error) {
        throw toBrokerError(error);
      }
    }
  };
}

/** A script on one server, for who keeps an order per key: what is called is never redirected, so it reaches that server in order or fails. */
export type NodeScript = (
  node: NodeConnection,
  keys: readonly string[],
  args: readonly ScriptArgument[],
) => Promise<unknown>;

/** Rejects with the error of the client, for `notDone` and `hasMoved` to judge. */
export function createNodeScript(file: URL): NodeScript {
  const source = read(file);
  return async (node, keys, args) => {
    for (let loads = 0; ; loads++) {
      try {
        gather(node.stream);
        return await node.evalsha(source.sha, keys.length, ...keys, ...args);
      } catch (error) {
        if (loads === MAX_LOADS || !(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error;
      }
      await node.script('LOAD', source.text);
    }
  };
}

type Stream = NodeConnection['stream'];
const gathered = new Set<Stream>();

/** Lets what is written in this turn of the event loop leave in one system call. The client's own pipelining does that too, at several times
 *  the cost, and lets a command wait for the answers of the pipeline before. */
function gather(stream: Stream): void {
  if (gathered.has(stream)) return;
  stream.cork();
  if (gathered.size === 0) setImmediate(sendGathered);
  gathered.add(stream);
}

function sendGathered(): void {
  const streams = [...gathered];
  gathered.clear();
  for (const stream of streams) stream.uncork();
}

async function loadEverywhere(connection: RedisConnection, source: Source): Promise<void> {
  const servers = isCluster(connection) ? connection.nodes('master') : [connection];
  const loads = await Promise.allSettled(servers.map((server) => server.script('LOAD', source.text)));
  // One of several masters may be away; the call itself shows whether the one that matters has the script.
  const failed = loads.find((load) => load.status === 'rejected');
  if (failed !== undefined && loads.every((load) => load.status === 'rejected')) throw failed.reason;
}

function read(file: URL): Source {
  const known = sources.get(file.href);
  if (known !== undefined) return known;
  const text = textOf(file);
  const source = { text, sha: createHash('sha1').update(text).digest('hex') };
  sources.set(file.href, source);
  return source;
}

function textOf(file: URL): string {
  return readFileSync(file, 'utf8').replace(INCLUDE, (_, shared: string | undefined, name: string) =>
    textOf(new URL(name, shared === undefined ? file : SHARED)),
  );
}
