/** WebhookStore on Redis: one slot for all webhooks, because there are few, and each attempt of delivery costs a request elsewhere that is far dearer. */

import { BrokerError } from '@lapi-broker/protocol';
import { createScript, guarded, type Keyspace, type RedisConnection, type Script } from '@lapi-broker/redis';
import {
  type LastAttempt,
  type LogLine,
  type OffReason,
  type SigningWebhook,
  WEBHOOK_LIMITS,
  type Webhook,
  type WebhookSpec,
} from './webhook.ts';
import type { LaneName, Report, Reported, TakenLane, WebhookStore } from './webhook-store.ts';

export interface WebhookStoreOptions {
  /** Of webhooks. */
  readonly limit: number;
  /** Who sees to a lane and is silent for longer is taken for dead. */
  readonly leaseMs: number;
  /** Failures in a row that open the breaker. */
  readonly failures: number;
  /** The breaker is open for the first, then for twice as long each time, up to the second. */
  readonly openMs: { readonly first: number; readonly longest: number };
  /** Nothing but failures for so long switches a webhook off. */
  readonly failingMs: number;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
}

const SCRIPTS = {
  put: 4,
  change: 3,
  switch: 3,
  rotate: 3,
  remove: 5,
  take: 3,
  renew: 2,
  release: 2,
  wake: 2,
  report: 4,
} as const;
/** Changes of one webhook that may come between reading and writing. */
const CHANGE_TRIES = 5;

export class RedisWebhookStore implements WebhookStore {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #options: WebhookStoreOptions;
  readonly #scripts: Readonly<Record<keyof typeof SCRIPTS, Script>>;

  /** A state connection; the caller opens and closes it. */
  constructor(connection: RedisConnection, keyspace: Keyspace, options: WebhookStoreOptions) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#options = options;
    const script = (name: keyof typeof SCRIPTS): Script =>
      createScript(connection, new URL(`./${name}.lua`, import.meta.url), SCRIPTS[name]);
    this.#scripts = {
      put: script('put'),
      change: script('change'),
      switch: script('switch'),
      rotate: script('rotate'),
      remove: script('remove'),
      take: script('take'),
      renew: script('renew'),
      release: script('release'),
      wake: script('wake'),
      report: script('report'),
    };
  }

  async put(id: string, spec: WebhookSpec, createdAtMs: number, secret: string): Promise<'stored' | 'full'> {
    const keys = [this.#keyspace.webhooks(), ...this.#keys(id)];
    const args = [id, this.#options.limit, JSON.stringify(spec), spec.concurrency, secret, Math.floor(createdAtMs)];
    return (await this.#scripts.put(keys, args)) === 1 ? 'stored' : 'full';
  }

  async read(id: string): Promise<SigningWebhook | undefined> {
    return fromHash(id, await guarded(this.#connection.hgetall(this.#keyspace.webhook(id))));
  }

  async list(after: string | undefined, limit: number): Promise<readonly Webhook[]> {
    const from = after === undefined ? '-' : `(${after}`;
    const ids = await guarded(this.#connection.zrangebylex(this.#keyspace.webhooks(), from, '+', 'LIMIT', 0, limit));
    const found = await Promise.all(ids.map((id) => this.read(id)));
    return found.filter((each) => each !== undefined);
  }

  async change(id: string, change: Partial<Omit<WebhookSpec, 'ordered'>>): Promise<WebhookSpec | undefined> {
    for (let tries = 0; tries < CHANGE_TRIES; tries++) {
      const before = await guarded(this.#connection.hget(this.#keyspace.webhook(id), 'spec'));
      if (before === null) return undefined;
      const old = JSON.parse(before) as WebhookSpec;
      const spec: WebhookSpec = { ...old, ...change };
      const elsewhere = spec.url === old.url ? 0 : 1;
      const answer = await this.#scripts.change(this.#keys(id), [
        id,
        before,
        JSON.stringify(spec),
        spec.concurrency,
        elsewhere,
      ]);
      if (answer === 'CHANGED') return spec;
      if (answer === 'GONE') return undefined;
    }
    throw new BrokerError('broker_unavailable', 'the webhook is being changed by others all the time');
  }

  async switch(id: string, off: OffReason | undefined): Promise<'switched' | 'same' | 'gone'> {
    const answer = await this.#scripts.switch(this.#keys(id), [id, off ?? '']);
    return answer === 'SWITCHED' ? 'switched' : answer === 'SAME' ? 'same' : 'gone';
  }

  async rotate(id: string, secret: string, overlapMs: number): Promise<number | undefined> {
    const untilMs = Number(await this.#scripts.rotate(this.#keys(id), [id, secret, overlapMs]));
    return untilMs === 0 ? undefined : untilMs;
  }

  async remove(id: string): Promise<boolean> {
    const { webhooks, webhook, webhookLog, dueWebhooks, webhookHolders } = this.#keyspace;
    const keys = [webhooks(), webhook(id), webhookLog(id), dueWebhooks(), webhookHolders()];
    return (await this.#scripts.remove(keys, [id])) === 1;
  }

  async log(id: string): Promise<readonly LogLine[]> {
    const lines = await guarded(this.#connection.lrange(this.#keyspace.webhookLog(id), 0, WEBHOOK_LIMITS.log - 1));
    return lines.map((line) => JSON.parse(line) as LogLine);
  }

  async take({ id, lane }: LaneName, token: string): Promise<TakenLane> {
    const args = [id, lane, token, this.#options.leaseMs];
    const [status, ...rest] = (await this.#scripts.take(this.#keys(id), args)) as string[];
    if (status === 'REST') return { status: 'rest', restMs: Number(rest[0]) };
    if (status !== 'TAKEN') return { status: status === 'BUSY' ? 'busy' : 'idle' };
    const hash: Record<string, string> = {};
    for (let i = 0; i + 1 < rest.length; i += 2) hash[rest[i] as string] = rest[i + 1] as string;
    const webhook = fromHash(id, hash);
    return webhook === undefined ? { status: 'idle' } : { status: 'taken', webhook };
  }

  async renew(held: readonly (LaneName & { readonly token: string })[]): Promise<readonly LaneName[]> {
    const pairs = held.flatMap(({ token, ...lane }) => [memberOf(lane), token]);
    const answers = (await this.#scripts.renew(this.#lanes(), [this.#options.leaseMs, ...pairs])) as number[];
    return held.filter((_, i) => answers[i] !== 1);
  }

  async release(lane: LaneName, token: string, restMs: number | undefined): Promise<boolean> {
    const args = [memberOf(lane), token, restMs === undefined ? '' : Math.round(restMs)];
    return (await this.#scripts.release(this.#lanes(), args)) === 1;
  }

  async wake(lane: LaneName): Promise<boolean> {
    return (await this.#scripts.wake(this.#lanes(), [memberOf(lane)])) === 1;
  }

  async due(atMs: number, limit: number): Promise<readonly (LaneName & { readonly atMs: number })[]> {
    const key = this.#keyspace.dueWebhooks();
    const found = await guarded(
      this.#connection.zrangebyscore(key, '-inf', Math.floor(atMs), 'WITHSCORES', 'LIMIT', 0, limit),
    );
    const lanes: (LaneName & { readonly atMs: number })[] = [];
    for (let i = 0; i + 1 < found.length; i += 2) {
      const [id = '', lane] = (found[i] as string).split(':');
      lanes.push({ id, lane: Number(lane), atMs: Number(found[i + 1]) });
    }
    return lanes;
  }

  async report(id: string, { line, verdict, askedMs, url }: Report): Promise<Reported> {
    const { failures, openMs, failingMs, random } = this.#options;
    const { webhook, webhookLog, dueWebhooks, webhookHolders } = this.#keyspace;
    const attempt: LastAttempt = { atMs: line.atMs, result: line.result, ms: line.ms };
    const keys = [webhook(id), webhookLog(id), dueWebhooks(), webhookHolders()];
    const [status, about] = (await this.#scripts.report(keys, [
      id,
      JSON.stringify(line),
      WEBHOOK_LIMITS.log,
      JSON.stringify(attempt),
      verdict === undefined ? 'test' : verdict === 'delivered' ? 'ok' : verdict,
      Math.round(askedMs),
      failures,
      openMs.first,
      openMs.longest,
      0.75 + random() / 2,
      failingMs,
      url,
    ])) as string[];
    if (status === 'OPENED') return { status: 'opened', restMs: Number(about) };
    if (status === 'OFF') return { status: 'switched off', reason: about === 'gone' ? 'gone' : 'failing' };
    return { status: status === 'NOTED' ? 'noted' : 'stop' };
  }

  #keys(id: string): string[] {
    return [this.#keyspace.webhook(id), ...this.#lanes()];
  }

  #lanes(): string[] {
    return [this.#keyspace.dueWebhooks(), this.#keyspace.webhookHolders()];
  }
}

function memberOf({ id, lane }: LaneName): string {
  return `${id}:${lane}`;
}

/** Undefined for what is no webhook. Its members were written by the scripts, by nobody else. */
function fromHash(id: string, hash: Readonly<Record<string, string>>): SigningWebhook | undefined {
  const { spec, secret, created, off, offAt, failures, failingSince, openUntil, last, okAt, previous, previousUntil } =
    hash;
  if (spec === undefined || secret === undefined) return undefined;
  const number = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text));
  return {
    ...(JSON.parse(spec) as WebhookSpec),
    id,
    createdAtMs: Number(created),
    off: off === undefined ? undefined : { reason: off as OffReason, atMs: Number(offAt) },
    failures: Number(failures ?? 0),
    failingSinceMs: number(failingSince),
    openUntilMs: number(openUntil),
    last: last === undefined ? undefined : (JSON.parse(last) as LastAttempt),
    lastSuccessAtMs: number(okAt),
    secret,
    previous: previous === undefined ? undefined : { secret: previous, untilMs: Number(previousUntil) },
  };
}
