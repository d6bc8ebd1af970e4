/** For tests: what an edge node is to the command service. It takes a lease and claims devices in the real registry, listens on its real
 *  inbox, answers frames as a test says, and, with a line, serves the lanes of its devices the same way, one command at a time.
 *  No sockets, no protocol: what a device would do is a function. */

import type { PubSub, Subscription } from '@lapi-broker/bus';
import { type BegunCommand, type EndedCommand, LANES, type LaneLine, type LaneName } from '@lapi-broker/lane';
import {
  type CommandFrame,
  type ControlMessage,
  type DeviceCode,
  decodeCommandFrame,
  decodeControlFrame,
  type Epoch,
  encodeEndedFrame,
  encodeReplyFrame,
  type NodeId,
  newNodeId,
  type ReplyFrame,
  type SessionId,
} from '@lapi-broker/protocol';
import type { Keyspace } from '@lapi-broker/redis';
import type { NodeDirectory, OwnerRegistry } from '@lapi-broker/routing';
import { nanoid } from 'nanoid';

export interface FakeEdgeParts {
  readonly pubsub: PubSub;
  readonly keyspace: Keyspace;
  readonly registry: OwnerRegistry;
  readonly directory: NodeDirectory;
  readonly line?: LaneLine;
}

/** Undefined = silence. */
export type Device = (frame: Pick<CommandFrame, 'code' | 'method' | 'url' | 'body'>) => Partial<ReplyFrame> | undefined;

const ANSWER: ReplyFrame = {
  id: 0,
  outcome: 'answered',
  written: true,
  success: true,
  responseCode: 0,
  body: Buffer.from('{"ResponseCode":0,"ResponseString":"Succeed","Data":{}}'),
};

export const answersWell: Device = () => ({});

export class FakeEdge {
  readonly node: NodeId;
  readonly frames: CommandFrame[] = [];
  readonly control: ControlMessage[] = [];
  /** Commands from lanes, in the order in which they were begun. */
  readonly begun: BegunCommand[] = [];
  device: Device = answersWell;
  readonly #parts: FakeEdgeParts;
  readonly #epochs = new Map<DeviceCode, Epoch>();
  #subscription: Subscription | undefined;

  constructor(name: string, parts: FakeEdgeParts) {
    this.#parts = parts;
    this.node = newNodeId(name, Date.now(), nanoid(8).replace(/[^A-Za-z0-9]/g, '0'));
  }

  /** Joins and listens. The lease is not renewed: choose it long enough, or short to die of it. */
  async start(leaseMs = 600_000): Promise<this> {
    const { directory } = this.#parts;
    await directory.join({ node: this.node, address: 'ws://test', version: '0.1.0', startedAtMs: Date.now() }, leaseMs);
    await this.listen();
    return this;
  }

  async listen(): Promise<void> {
    const { pubsub, keyspace } = this.#parts;
    this.#subscription = await pubsub.subscribe(
      keyspace.inbox(this.node),
      (bytes) => this.#take(bytes),
      () => undefined,
    );
  }

  async deafen(): Promise<void> {
    await this.#subscription?.close();
    this.#subscription = undefined;
  }

  /** The device registers here. `revision` is what `put` answered. */
  async claim(code: DeviceCode, revision: number): Promise<Epoch> {
    const result = await this.#parts.registry.claim({
      code,
      node: this.node,
      session: nanoid() as SessionId,
      facts: { vendor: 'Uniview', deviceType: 'NVR', algorithm: 'HMAC-SHA256', address: '192.0.2.1' },
      nonce: nanoid(16),
      nonceTtlMs: 130_000,
      revision,
      notAfterMs: Date.now() + 60_000,
    });
    if (result.status !== 'claimed') throw new Error(`claim of ${code}: ${result.status}`);
    this.#epochs.set(code, result.epoch);
    return result.epoch;
  }

  /** Begins what may begin in the lanes of a device. */
  async serveLanes(code: DeviceCode): Promise<void> {
    for (const lane of LANES) await this.#serve(code, lane);
  }

  async #serve(code: DeviceCode, lane: LaneName): Promise<void> {
    const { line, pubsub, keyspace } = this.#parts;
    const epoch = this.#epochs.get(code);
    if (line === undefined || epoch === undefined) return;
    const tell = (ended: readonly EndedCommand[]): void => {
      for (const { id, replyTo } of ended)
        if (replyTo !== undefined) void pubsub.publish(keyspace.reply(replyTo), encodeEndedFrame(id));
    };
    for (;;) {
      const notAfterMs = Date.now() + 5_000;
      const result = await line.begin({ code, lane, node: this.node, epoch, window: 1, notAfterMs });
      if ('ended' in result) tell(result.ended);
      if (result.status !== 'begun') return;
      const { command } = result;
      this.begun.push(command);
      const reply = this.device({ code, ...command });
      if (reply === undefined) return;
      const settled = await line.settle(code, command.id, epoch, command.attempt, {
        ...ANSWER,
        ...reply,
        kind: 'answered',
      });
      if (settled.status === 'settled') tell([settled.ended]);
    }
  }

  /** The socket is gone, and the registry does not know yet. */
  drop(code: DeviceCode): void {
    this.#epochs.delete(code);
  }

  reply(frame: CommandFrame, reply: Partial<ReplyFrame>): void {
    const { pubsub, keyspace } = this.#parts;
    const refused = reply.outcome !== undefined && reply.outcome !== 'answered';
    const base = refused
      ? { ...ANSWER, written: false, success: false, responseCode: undefined, body: Buffer.alloc(0) }
      : ANSWER;
    void pubsub.publish(keyspace.reply(frame.replyTo), encodeReplyFrame({ ...base, ...reply, id: frame.id }));
  }

  #take(bytes: Buffer): void {
    const message = decodeControlFrame(bytes);
    if (message !== undefined) {
      this.control.push(message);
      if (message.type === 'lane_ready') void this.serveLanes(message.code);
      return;
    }
    const frame = decodeCommandFrame(bytes);
    if (frame === undefined) return;
    this.frames.push(frame);
    if (this.#epochs.get(frame.code) !== frame.epoch) {
      this.reply(frame, { outcome: 'stale_owner' });
      return;
    }
    const reply = this.device(frame);
    if (reply !== undefined) this.reply(frame, reply);
  }
}
