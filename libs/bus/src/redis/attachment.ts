/** Keeps work attached to a master: opens a connection of its own to it, lets `serve` work there, and when that ends for whatever reason
 *  (connection lost, server hung, keys moved, found on a replica) drops the connection and starts again with backoff.
 *  One path for all faults; no connection is ever repaired. Failures are reported, never thrown; it ends only by `close`. */

import { setTimeout as delay } from 'node:timers/promises';
import {
  type ConnectionEvent,
  type ConnectionRole,
  connected,
  dropConnection,
  type NodeConnection,
  openNode,
  type RedisConnection,
  refreshTopology,
  retryDelayMs,
  withDeadline,
} from '@lapi-broker/redis';

const CONNECT_DEADLINE_MS = 3000;

export interface AttachmentOptions {
  readonly state: RedisConnection;
  readonly role: ConnectionRole;
  /** Names the master to attach to, as `masterOf` does; asked before every attempt. */
  readonly master: () => string | undefined;
  /** Beside the events of the connection: `bus.detached {master, error}`. */
  readonly onEvent: ConnectionEvent | undefined;
  /** Works on a connected, verified master until `lost` is aborted; a rejection or return means "start again".
   *  It calls `steady` when its work stands, which ends the backoff. */
  readonly serve: (node: NodeConnection, lost: AbortSignal, steady: () => void) => Promise<void>;
}

export interface Attachment {
  /** Resolves when the work has ended and the connection is gone. Idempotent. */
  close(): Promise<void>;
}

export function attach(options: AttachmentOptions): Attachment {
  const closing = new AbortController();
  const done = keepAttached(options, closing.signal);
  return {
    close: () => {
      closing.abort();
      return done;
    },
  };
}

/** Rejects when the server does not answer in time or is not a master. Replicas deliver what nobody counts, and may be behind. */
export async function assertMaster(node: NodeConnection, timeMs: number): Promise<void> {
  const [role] = await withDeadline(node.role(), timeMs);
  if (role !== 'master') throw new Error(`found a ${String(role)} where a master was expected`);
}

async function keepAttached(options: AttachmentOptions, closing: AbortSignal): Promise<void> {
  let attempt = 0;
  while (!closing.aborted) {
    try {
      await attachOnce(options, closing, () => {
        attempt = 0;
      });
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      if (!closing.aborted)
        options.onEvent?.('bus.detached', { role: options.role, master: options.master(), error: text });
    }
    if (closing.aborted) return;
    refreshTopology(options.state);
    attempt++;
    await delay(retryDelayMs(attempt), undefined, { signal: closing }).catch(() => undefined);
  }
}

async function attachOnce(options: AttachmentOptions, closing: AbortSignal, steady: () => void): Promise<void> {
  const { state, role, onEvent, serve } = options;
  const master = options.master();
  if (master === undefined) throw new Error('no master is known');
  const node = openNode(state, role, master, onEvent);
  const lost = new AbortController();
  const leave = (): void => lost.abort();
  // Cutting the connection ends whatever `serve` waits for.
  const cut = (): void => {
    lost.abort();
    node.disconnect();
  };
  node.once('close', leave);
  // The server took a sharded channel away because its slot has moved.
  node.once('moved', cut);
  closing.addEventListener('abort', cut, { once: true });
  try {
    await connected(node, CONNECT_DEADLINE_MS);
    await assertMaster(node, CONNECT_DEADLINE_MS);
    await serve(node, lost.signal, steady);
  } finally {
    closing.removeEventListener('abort', cut);
    node.off('close', leave);
    node.off('moved', cut);
    await dropConnection(node);
  }
}
