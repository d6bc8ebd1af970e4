/** Gives bytes to one server, to be published or to be fetched, large ones without copying them: the client puts the parts of a command together in new memory before it
 *  writes them, and for answers of 100 KB that memory was what cost most, because the runtime collects the garbage of its whole heap for it.
 *  Answers and errors are those of the client's own PUBLISH, SPUBLISH and SETEX. The bytes must not change before the answer, nor after an error. */

import { Command } from 'ioredis';
import type { NodeConnection } from './connection.ts';

/** Below, one copy is cheaper than three parts. */
const LARGE_BYTES = 16_384;

class LargeCommand extends Command {
  readonly #words: readonly string[];
  readonly #bytes: Buffer;

  /** `bytes` are its last argument. */
  constructor(name: 'publish' | 'spublish' | 'setex', words: readonly string[], bytes: Buffer) {
    super(name, [...words, bytes]);
    this.#words = [name, ...words];
    this.#bytes = bytes;
  }

  /** Called once, in the moment of writing; what it returns is written last. */
  override toWritable(stream: NodeConnection['stream']): string {
    const words = this.#words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('');
    stream.write(`*${this.#words.length + 1}\r\n${words}$${this.#bytes.length}\r\n`);
    stream.write(this.#bytes);
    return '\r\n';
  }
}

/** Resolves with the number of receivers. `sharded`: the form that a Cluster needs. */
export function publish(node: NodeConnection, channel: string, bytes: Buffer, sharded: boolean): Promise<unknown> {
  if (bytes.length < LARGE_BYTES) return sharded ? node.spublish(channel, bytes) : node.publish(channel, bytes);
  return send(node, new LargeCommand(sharded ? 'spublish' : 'publish', [channel], bytes));
}

/** Keeps bytes under a key for so long. */
export function keep(node: NodeConnection, key: string, seconds: number, bytes: Buffer): Promise<unknown> {
  return send(node, new LargeCommand('setex', [key, String(seconds)], bytes));
}

function send(node: NodeConnection, command: LargeCommand): Promise<unknown> {
  const { stream } = node;
  stream.cork();
  try {
    return Promise.resolve(node.sendCommand(command));
  } finally {
    stream.uncork();
  }
}
