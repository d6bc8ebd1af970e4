/** Webhooks as platforms see them: made, read, changed, switched, tested, removed. The one way in; sending is webhook-runner.ts.
 *  What a caller was told is in the store, and where there are replicas in one of them. A webhook is off until its group is there, so one whose
 *  making broke off sends nothing, can be seen, and can be removed.
 *  Store away, or no replica in time: methods reject with `broker_unavailable`; a change may have been made then.
 *  Not done here: who may, and what a URL may be (routes). */

import { BrokerError } from '@lapi-broker/protocol';
import type { StartPoint } from '../event/cursor.ts';
import type { DeadLetter, GroupProgress, GroupSpec, Groups } from '../group/group.ts';
import { headersOf, writeTest } from './message.ts';
import type { SafePost } from './safe-post.ts';
import { newSigningSecret } from './signature.ts';
import {
  groupOf,
  type LogLine,
  newWebhookId,
  type OffReason,
  type SigningWebhook,
  type Webhook,
  type WebhookSpec,
} from './webhook.ts';
import type { WebhookStore } from './webhook-store.ts';

export interface WebhooksParts {
  readonly store: Pick<
    WebhookStore,
    'put' | 'read' | 'list' | 'change' | 'switch' | 'rotate' | 'remove' | 'log' | 'report'
  >;
  readonly groups: Pick<Groups, 'create' | 'change' | 'remove' | 'progress' | 'deadLetters' | 'replay' | 'discard'>;
  readonly poster: Pick<SafePost, 'post'>;
  readonly seal: (id: string, secret: string) => string;
  readonly secretsOf: (webhook: SigningWebhook, nowMs: number) => readonly string[];
  readonly userAgent: string;
  /** Has a replica what was written? */
  readonly confirm: () => Promise<boolean>;
  /** Of the store. */
  readonly nowMs: () => number;
  readonly monotonicMs: () => number;
  /** 11 characters `[0-9a-z]`. */
  readonly random: () => string;
  /** Never rejects. */
  readonly restart: (id: string) => Promise<void>;
  readonly onSwitched: (webhook: Webhook, off: OffReason | undefined) => void;
}

export interface MadeWebhook {
  readonly status: 'made';
  readonly webhook: Webhook;
  readonly secret: string;
}

export interface Tested {
  readonly status: number | undefined;
  readonly error: string | undefined;
  readonly durationMs: number;
}

/** What a request may take on its way beyond its own time-out. */
const ACK_MARGIN_MS = 5_000;
/** Tests at once in one process: each holds a request of a caller. */
const TESTS = 16;
/** Changes of one webhook that may cross each other. */
const CHANGE_TRIES = 5;

export class Webhooks {
  readonly #parts: WebhooksParts;
  #tests = 0;

  constructor(parts: WebhooksParts) {
    this.#parts = parts;
  }

  /** `full`: of webhooks, or of groups. */
  async create(
    spec: WebhookSpec,
    start: StartPoint,
    given: string | undefined,
  ): Promise<MadeWebhook | { readonly status: 'full' }> {
    const { store, groups, seal, nowMs, random, restart } = this.#parts;
    const createdAtMs = Math.floor(nowMs());
    const id = newWebhookId(createdAtMs, random);
    const secret = given ?? newSigningSecret();
    if ((await store.put(id, spec, createdAtMs, seal(id, secret))) === 'full') return { status: 'full' };
    const group = await groups.create(groupSpecOf(id, spec), 'webhook', start);
    if (group.status === 'full' || group.status === 'conflict') {
      await store.remove(id);
      return { status: 'full' };
    }
    // Deleted meanwhile, before there was a group to delete.
    if ((await store.switch(id, undefined)) === 'gone') await groups.remove(groupOf(id));
    await this.#confirmed();
    const webhook = await store.read(id);
    if (webhook === undefined)
      throw new BrokerError('broker_unavailable', 'the store forgot the webhook; make it again');
    await restart(id);
    return { status: 'made', webhook, secret };
  }

  /** Undefined if there is no such webhook, as below. */
  read(id: string): Promise<Webhook | undefined> {
    return this.#parts.store.read(id);
  }

  list(after: string | undefined, limit: number): Promise<readonly Webhook[]> {
    return this.#parts.store.list(after, limit);
  }

  /** Undefined where the group is not there, or not yet. */
  async progress(id: string): Promise<GroupProgress | undefined> {
    try {
      return await this.#parts.groups.progress(groupOf(id));
    } catch (error) {
      if (error instanceof BrokerError && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  async change(id: string, change: Partial<Omit<WebhookSpec, 'ordered'>>): Promise<Webhook | undefined> {
    const { store, restart } = this.#parts;
    if ((await store.change(id, change)) === undefined) return undefined;
    await this.#bringGroup(id);
    await this.#confirmed();
    await restart(id);
    return await this.read(id);
  }

  /** `unmade`: its making, or its deletion, broke off. */
  async enable(id: string): Promise<Webhook | 'unmade' | undefined> {
    const { store, restart, onSwitched } = this.#parts;
    const webhook = await store.read(id);
    if (webhook?.off?.reason === 'new') return 'unmade';
    if (webhook?.off !== undefined && (await this.progress(id)) === undefined) return 'unmade';
    const switched = await store.switch(id, undefined);
    await this.#confirmed();
    if (webhook !== undefined && switched === 'switched') onSwitched(webhook, undefined);
    await restart(id);
    return await this.read(id);
  }

  async disable(id: string): Promise<Webhook | undefined> {
    const { store, restart, onSwitched } = this.#parts;
    const switched = await store.switch(id, 'asked');
    await this.#confirmed();
    await restart(id);
    const webhook = await store.read(id);
    if (webhook !== undefined && switched === 'switched') onSwitched(webhook, 'asked');
    return webhook;
  }

  async rotate(
    id: string,
    given: string | undefined,
    overlapMs: number,
  ): Promise<{ readonly secret: string; readonly previousUntilMs: number } | undefined> {
    const { store, seal, restart } = this.#parts;
    const secret = given ?? newSigningSecret();
    const previousUntilMs = await store.rotate(id, seal(id, secret), overlapMs);
    if (previousUntilMs === undefined) return undefined;
    await this.#confirmed();
    await restart(id);
    return { secret, previousUntilMs };
  }

  /** Sends a message of its own, now, whatever the state; it counts for nothing and is in the log. */
  async test(id: string): Promise<Tested | 'busy' | undefined> {
    const { store, poster, secretsOf, userAgent, nowMs, monotonicMs, random } = this.#parts;
    const webhook = await store.read(id);
    if (webhook === undefined) return undefined;
    if (this.#tests >= TESTS) return 'busy';
    this.#tests += 1;
    try {
      const atMs = Math.floor(nowMs());
      const message = writeTest(id, random(), atMs);
      const startMs = monotonicMs();
      const posted = await poster.post({
        url: webhook.url,
        headers: headersOf(message, secretsOf(webhook, atMs), atMs, userAgent),
        body: message.body,
        timeoutMs: webhook.timeoutMs,
      });
      const durationMs = Math.round(monotonicMs() - startMs);
      const result = posted.status === 'answered' ? posted.code : posted.error;
      const about = { atMs, message: message.id, ids: [], count: 0, attempt: 1, result, ms: durationMs } as const;
      await store.report(id, { line: { type: 'test', ...about }, verdict: undefined, askedMs: 0, url: webhook.url });
      return posted.status === 'answered'
        ? { status: posted.code, error: undefined, durationMs }
        : { status: undefined, error: posted.error, durationMs };
    } finally {
      this.#tests -= 1;
    }
  }

  /** Idempotent from the first of its steps on. */
  async remove(id: string): Promise<boolean> {
    const { store, groups, restart } = this.#parts;
    if ((await store.switch(id, 'asked')) === 'gone') return false;
    await restart(id);
    await groups.remove(groupOf(id));
    await store.remove(id);
    await this.#confirmed();
    return true;
  }

  log(id: string): Promise<readonly LogLine[]> {
    return this.#parts.store.log(id);
  }

  deadLetters(
    id: string,
    page: { readonly after: string | undefined; readonly limit: number },
  ): Promise<readonly DeadLetter[]> {
    return this.#parts.groups.deadLetters(groupOf(id), page);
  }

  replay(id: string, ids: readonly string[] | undefined): Promise<number> {
    return this.#parts.groups.replay(groupOf(id), ids);
  }

  discard(id: string, ids: readonly string[] | undefined): Promise<number> {
    return this.#parts.groups.discard(groupOf(id), ids);
  }

  /** The group as the record says. Another change may come between reading and writing, so whoever has written looks again. */
  async #bringGroup(id: string): Promise<void> {
    const { store, groups } = this.#parts;
    let written = '';
    for (let tries = 0; tries < CHANGE_TRIES; tries++) {
      const webhook = await store.read(id);
      if (webhook === undefined) return;
      const { name, ordered: _, ...settings } = groupSpecOf(id, webhook);
      const wanted = JSON.stringify(settings);
      if (wanted === written) return;
      await groups.change(name, settings);
      written = wanted;
    }
    throw new BrokerError('broker_unavailable', 'the webhook is being changed by others all the time');
  }

  async #confirmed(): Promise<void> {
    if (await this.#parts.confirm()) return;
    throw new BrokerError('broker_unavailable', 'the store did not confirm the change; it may have been made: look');
  }
}

function groupSpecOf(id: string, spec: WebhookSpec): GroupSpec {
  return {
    name: groupOf(id),
    filter: spec.filter,
    ackDeadlineMs: spec.timeoutMs + ACK_MARGIN_MS,
    // Room for what a process that died has out: lanes bound what is sent at a time.
    maxInFlight: 4 * spec.concurrency * spec.batch,
    maxAttempts: spec.maxAttempts,
    ordered: spec.ordered,
  };
}
