/** The two connections of a BullMQ worker: one for its book-keeping, one that waits for work; both opened, tuned and closed by us.
 *
 *  BullMQ would copy the first to make the second, which then could neither have settings of its own nor be cut while the store is away.
 *  Three of its habits are changed here. Where the store refuses to give out work (full, read-only, a Cluster without that slot) it asks
 *  again as fast as the store can refuse; here a refusal takes a while. After a lost connection it waits up to 10 s before it looks for what
 *  is due; here it looks. And it may open a connection again that was closed for good. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { RedisConnection } from '@lapi-broker/redis';
import {
  type BackendFactory,
  RedisConnection as BullConnection,
  QueueKeys,
  RedisQueueBackend,
  type WorkerOptions,
} from 'bullmq';

const REFUSAL_DELAY_MS = 500;

type Arguments<Name extends 'moveToActive' | 'waitForJob'> = Parameters<RedisQueueBackend[Name]>;
type Answer<Name extends 'moveToActive' | 'waitForJob'> = ReturnType<RedisQueueBackend[Name]>;

class WorkerBackend extends RedisQueueBackend {
  readonly #waiting: RedisConnection;
  readonly #stopping: AbortSignal;
  /** The worker does not know what is due, because the store did not tell it when it asked last. */
  #unaware = false;

  constructor(
    parts: { readonly waiting: RedisConnection; readonly stopping: AbortSignal },
    ...theirs: ConstructorParameters<typeof RedisQueueBackend>
  ) {
    super(...theirs);
    this.#waiting = parts.waiting;
    this.#stopping = parts.stopping;
  }

  override async moveToActive(...args: Arguments<'moveToActive'>): Answer<'moveToActive'> {
    try {
      const answer = await super.moveToActive(...args);
      this.#unaware = false;
      return answer;
    } catch (error) {
      this.#unaware = true;
      await this.#pause();
      throw error;
    }
  }

  override async waitForJob(...args: Arguments<'waitForJob'>): Answer<'waitForJob'> {
    // As after a wait in vain: the worker looks for what is due.
    if (this.#unaware) return null;
    try {
      return await super.waitForJob(...args);
    } catch {
      await this.reconnectBlocking().catch(() => undefined);
      await this.#pause();
      return null;
    }
  }

  /** Only what has ended; everything else comes back by itself. */
  override async reconnectBlocking(): Promise<void> {
    if (this.#waiting.status === 'end' && !this.#stopping.aborted) await this.#waiting.connect();
  }

  async #pause(): Promise<void> {
    await sleep(REFUSAL_DELAY_MS, undefined, { signal: this.#stopping }).catch(() => undefined);
  }
}

/** `blocking` would have it close and open the connections of a Cluster by rules of its own. */
function asBull(connection: RedisConnection): BullConnection {
  return new BullConnection(connection, { shared: true, blocking: false, skipVersionCheck: true });
}

/** Both connections must be ready. */
export async function workerBackend(
  bookkeeping: RedisConnection,
  waiting: RedisConnection,
  stopping: AbortSignal,
): Promise<BackendFactory<RedisQueueBackend>> {
  const [keeper, waiter] = [asBull(bookkeeping), asBull(waiting)];
  await Promise.all([keeper.client, waiter.client]);
  // Without its own look at the version, which fails for good when the store goes away meanwhile, it would wait in whole seconds.
  waiter.capabilities = { canDoubleTimeout: true, canBlockFor1Ms: false };
  return (name, options: WorkerOptions) => {
    const keys = new QueueKeys(options.prefix);
    const toKey = (type: string): string => keys.toKey(name, type);
    return new WorkerBackend({ waiting, stopping }, keeper, name, keys.getKeys(name), toKey, options, waiter);
  };
}
