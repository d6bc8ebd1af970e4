/** Puts together what a command process needs for webhooks: which part needs which, and in what order they start. Nothing is decided here. */

import type { EventStream } from '@lapi-broker/bus';
import type { SecretVault } from '@lapi-broker/device';
import { openWorkQueue } from '@lapi-broker/queue';
import {
  type ConnectionEvent,
  type Keyspace,
  parseRedisUrl,
  type RedisClock,
  type RedisConnection,
  ReplicaBarrier,
} from '@lapi-broker/redis';
import type { Part } from '@lapi-broker/runtime';
import type { Log, Metrics } from '@lapi-broker/telemetry';
import { customAlphabet } from 'nanoid';
import type { CommandConfig } from '../config.ts';
import { createAnnouncer } from '../event/announcer.ts';
import type { Groups } from '../group/group.ts';
import { parseRanges } from './address-rules.ts';
import { createWebhookMetrics } from './metrics.ts';
import { RedisWebhookStore, type WebhookStoreOptions } from './redis-webhook-store.ts';
import { FIRST_RETRY_MS } from './retry.ts';
import { SafePost, type SafePostParts } from './safe-post.ts';
import { WebhookSurvey } from './survey.ts';
import { parsePorts, type TargetRules } from './target.ts';
import { isDelivered, type OffReason, type SigningWebhook, WEBHOOK_STATES, type Webhook } from './webhook.ts';
import { WebhookEvents } from './webhook-events.ts';
import { LEASE_MS, type RunnerTiming, WebhookRunner } from './webhook-runner.ts';
import { Webhooks } from './webhooks.ts';

export interface WebhookWiring {
  readonly config: Pick<
    CommandConfig,
    | 'REDIS_URL'
    | 'LAPI_CONFIRM_COMMANDS'
    | 'LAPI_WEBHOOKS'
    | 'LAPI_WEBHOOK_ALLOW'
    | 'LAPI_WEBHOOK_ALLOW_HTTP'
    | 'LAPI_WEBHOOK_PORTS'
    | 'LAPI_WEBHOOK_DISABLE_HOURS'
  >;
  readonly version: string;
  readonly state: RedisConnection;
  /** Carries what a replica may have to confirm, because waiting for one holds up everything behind it. */
  readonly submits: RedisConnection;
  readonly keyspace: Keyspace;
  readonly stream: Pick<EventStream, 'append'>;
  readonly groups: Groups;
  readonly vault: SecretVault;
  readonly time: Pick<RedisClock, 'nowMs'>;
  readonly metrics: Metrics;
  readonly log: Pick<Log, 'info' | 'warn'>;
  readonly onEvent: ConnectionEvent;
  readonly monotonicMs: () => number;
  /** Other than usual, for tests. */
  readonly posting?: Pick<SafePostParts, 'resolve' | 'ca'>;
  readonly pace?: Partial<Pick<WebhookStoreOptions, 'failures' | 'openMs' | 'failingMs' | 'leaseMs'>> & {
    readonly firstRetryMs?: number;
    readonly timing?: RunnerTiming;
  };
}

export interface WebhookParts {
  readonly webhooks: Webhooks;
  /** What a URL may be here. */
  readonly rules: TargetRules;
  /** To start after the groups, in this order. */
  readonly parts: readonly Part[];
}

const QUEUE = 'webhook';
const COMMAND_TIMEOUT_MS = 2_000;
const HOUR_MS = 3_600_000;
const BREAKER = { failures: 5, openMs: { first: 5_000, longest: 300_000 } } as const;
/** Beyond the first lane of each webhook, which always has a place somewhere. */
const FURTHER_PLACES = 64;
/** Between two counts of webhooks by state. */
const SURVEY_MS = 10_000;
const ALPHABET = '0123456789abcdefghijklmnopqrstuvwxyz';

export function createWebhooks(wiring: WebhookWiring): WebhookParts {
  const { config, state, submits, keyspace, stream, groups, vault, time, metrics, log, onEvent, monotonicMs } = wiring;
  const { firstRetryMs = FIRST_RETRY_MS, timing, ...pace } = wiring.pace ?? {};
  const nowMs = (): number => time.nowMs();
  const rules: TargetRules = {
    allowed: parseRanges(config.LAPI_WEBHOOK_ALLOW),
    allowHttp: config.LAPI_WEBHOOK_ALLOW_HTTP,
    ports: parsePorts(config.LAPI_WEBHOOK_PORTS),
  };
  const options: WebhookStoreOptions = {
    limit: config.LAPI_WEBHOOKS,
    leaseMs: LEASE_MS,
    failingMs: config.LAPI_WEBHOOK_DISABLE_HOURS * HOUR_MS,
    random: Math.random,
    ...BREAKER,
    ...pace,
  };
  const store = new RedisWebhookStore(state, keyspace, options);
  const poster = new SafePost({ rules, nowMs: () => Date.now(), ...wiring.posting });
  const counts = createWebhookMetrics(metrics);
  const events = new WebhookEvents(
    createAnnouncer({ stream, nowMs, onFailure: (error) => log.warn({ err: error }, 'webhook.event_lost') }),
  );
  const onSwitched = (webhook: Webhook, off: OffReason | undefined): void => {
    if (off !== undefined) counts.disabled.inc({ reason: off });
    if (off === undefined || off === 'asked') log.info({ webhook: webhook.id, off }, 'webhook.switched');
    else log.warn({ webhook: webhook.id, off }, 'webhook.switched');
    events.tell(webhook, off);
  };
  const userAgent = `lapi-broker/${wiring.version}`;
  const secretsOf = ({ id, secret, previous }: SigningWebhook, atMs: number): readonly string[] => {
    const sealed = previous !== undefined && previous.untilMs > atMs ? [secret, previous.secret] : [secret];
    return sealed.map((each) => vault.open(`webhook/${id}`, Buffer.from(each, 'base64')));
  };
  const turns = openWorkQueue({
    redis: { url: config.REDIS_URL, commandTimeoutMs: COMMAND_TIMEOUT_MS },
    name: QUEUE,
    prefix: keyspace.queue(QUEUE),
    concurrency: config.LAPI_WEBHOOKS + FURTHER_PLACES,
    handler: (turn, signal) => runner.take(turn, signal),
    onEvent,
  });
  const onFailure = (webhook: string, error: unknown): void => {
    counts.failures.inc();
    log.warn({ webhook, err: error }, 'webhook.turn_failed');
  };
  const runner = new WebhookRunner({
    groups,
    store,
    poster,
    secretsOf,
    userAgent,
    nowMs,
    monotonicMs,
    random: Math.random,
    firstRetryMs,
    ...(timing === undefined ? {} : { timing }),
    newToken: customAlphabet(ALPHABET, 16),
    addTurn: (turn, delayMs) => turns.add(turn, { delayMs }),
    onAttempt: ({ result, ms }) => {
      const outcome = typeof result === 'string' ? result : isDelivered(result) ? 'delivered' : 'answered';
      counts.deliveries.inc({ result: outcome });
      counts.seconds.observe(ms / 1_000);
    },
    onSwitchedOff: onSwitched,
    onFailure,
  });
  metrics.observed('lapi_webhook_lanes', 'Lanes of webhooks that this process sees to now.', () => runner.held);
  const replicated = config.LAPI_CONFIRM_COMMANDS === 'auto' && parseRedisUrl(config.REDIS_URL).kind !== 'standalone';
  const barrier = new ReplicaBarrier(submits, replicated);
  const webhooks = new Webhooks({
    store: new RedisWebhookStore(submits, keyspace, options),
    groups,
    poster,
    seal: (id, secret) => Buffer.from(vault.seal(`webhook/${id}`, secret)).toString('base64'),
    secretsOf,
    userAgent,
    confirm: () => barrier.confirm(keyspace.webhooks()),
    nowMs,
    monotonicMs,
    random: customAlphabet(ALPHABET, 11),
    restart: (id) => runner.restart(id),
    onSwitched,
  });
  const survey = new WebhookSurvey({
    list: () => store.list(undefined, config.LAPI_WEBHOOKS),
    intervalMs: SURVEY_MS,
    onCounted: (counted) => {
      for (const state of WEBHOOK_STATES) counts.webhooks.set({ state }, counted.get(state) ?? 0);
    },
    onFailure: (error) => onFailure('', error),
  });
  return {
    webhooks,
    rules,
    parts: [
      { name: 'webhook requests', stop: () => poster.stop() },
      { name: 'webhook turns', start: () => turns.start(), stop: () => turns.stop() },
      runner,
      survey,
    ],
  };
}
