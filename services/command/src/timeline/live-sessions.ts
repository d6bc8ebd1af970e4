/** Asks the node that holds a device what its session is and what was said last: a question through the inbox of the node, an answer on the
 *  reply channel of this process. For people who look, so it never fails: without an answer in time there is none.
 *  Bounds: MAX_ASKS questions at a time, SHOW_MS each. */

import type { PubSub } from '@lapi-broker/bus';
import {
  type DeviceCode,
  encodeControlFrame,
  type InstanceId,
  type NodeId,
  type ShownSession,
} from '@lapi-broker/protocol';
import type { Keyspace } from '@lapi-broker/redis';
import { decodeSession, type SessionEntry } from '@lapi-broker/timeline';

export interface LiveSessionsOptions {
  readonly instance: InstanceId;
  readonly pubsub: Pick<PubSub, 'publish'>;
  readonly keyspace: Pick<Keyspace, 'inbox'>;
}

const MAX_ASKS = 1_000;
const SHOW_MS = 1_000;

interface Ask {
  readonly code: DeviceCode;
  readonly settle: (entry: SessionEntry | undefined) => void;
  readonly timer: NodeJS.Timeout;
}

export class LiveSessions {
  readonly name = 'live sessions';
  readonly #options: LiveSessionsOptions;
  readonly #asks = new Map<number, Ask>();
  #lastAsk = 0;

  constructor(options: LiveSessionsOptions) {
    this.#options = options;
  }

  /** Undefined: the node has no session of it, or did not say in time. */
  async show(node: NodeId, code: DeviceCode): Promise<SessionEntry | undefined> {
    if (this.#asks.size >= MAX_ASKS) return undefined;
    const { instance, pubsub, keyspace } = this.#options;
    const ask = this.#nextAsk();
    const shown = new Promise<SessionEntry | undefined>((settle) => {
      this.#asks.set(ask, { code, settle, timer: setTimeout(() => this.#end(ask, undefined), SHOW_MS) });
    });
    const frame = encodeControlFrame({ type: 'show_session', code, ask, replyTo: instance });
    const result = await pubsub.publish(keyspace.inbox(node), frame);
    if (result.status === 'not_sent' || (result.status === 'published' && result.receivers === 0))
      this.#end(ask, undefined);
    return await shown;
  }

  /** For the reply channel. */
  told({ ask, text }: ShownSession): void {
    const asked = this.#asks.get(ask);
    if (asked !== undefined) this.#end(ask, text === '' ? undefined : decodeSession(asked.code, text));
  }

  stop(): void {
    for (const ask of [...this.#asks.keys()]) this.#end(ask, undefined);
  }

  #end(ask: number, entry: SessionEntry | undefined): void {
    const asked = this.#asks.get(ask);
    if (asked === undefined) return;
    this.#asks.delete(ask);
    clearTimeout(asked.timer);
    asked.settle(entry);
  }

  #nextAsk(): number {
    do this.#lastAsk = (this.#lastAsk + 1) >>> 0;
    while (this.#asks.has(this.#lastAsk));
    return this.#lastAsk;
  }
}
