/** Publishes bytes to one server, large ones without copying them: the client puts the parts of a command together in new memory before it
 *  writes them, and for answers of 100 KB that memory was what cost most, because the runtime collects the garbage of its whole heap for it.
 *  Answers and errors are those of the client's own PUBLISH and SPUBLISH. The bytes must not change before the answer, nor after an error. */

import { Command } from 'ioredis';
import type { NodeConnection } from './connection.ts';

/** Below, one copy is cheaper than three parts. */
const LARGE_BYTES = 16_384;

class LargePublish extends Command {
  readonly #channel: string;
  readonly #bytes: Buffer;

  constructor(name: 'publish' | 'spublish', channel: string, bytes: Buffer) {
    super(name, [channel, bytes]);
    this.#channel = channel;
    this.#bytes = bytes;
  }

  /** Called once, in the moment of writing; what it returns is written last. */
  override toWritable(stream: NodeConnection['stream']): string {
    const { name } = this;
    const channelBytes = Buffer.byteLength(this.#channel);
    stream.write(
      `*3\r\n$${name.length}\r\n${name}\r\n$${channelBytes}\r\n${this.#channel}\r\n$${this.#bytes.length}\r\n`,
    );
    stream.write(this.#bytes);
    return '\r\n';
  }
}

/** Resolves with the number of receivers. `sharded`: the form that a Cluster needs. */
export function publish(node: NodeConnection, channel: string, bytes: Buffer, sharded: boolean): Promise<unknown> {
  if (bytes.length < LARGE_BYTES) return sharded ? node.spublish(channel, bytes) : node.publish(channel, bytes);
  const { stream } = node;
  stream.cork();
  try {
    return Promise.resolve(node.sendCommand(new LargePublish(sharded ? 'spublish' : 'publish', channel, bytes)));
  } finally {
    stream.uncork();
  }
}
