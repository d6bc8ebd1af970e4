/** Changes of webhooks that cross each other or break off: record and group say the same in the end, and nothing is left behind. */

import { BrokerError } from '@lapi-broker/protocol';
import { expect, test } from 'vitest';
import type { GroupSpec } from '../group/group.ts';
import type { SigningWebhook, WebhookSpec } from './webhook.ts';
import { Webhooks } from './webhooks.ts';

const SPEC: WebhookSpec = {
  url: 'https://vms.example.com/',
  name: '',
  description: '',
  filter: {},
  ordered: true,
  concurrency: 1,
  batch: 1,
  timeoutMs: 10_000,
  maxAttempts: 20,
};
const START = { from: 'now' } as const;

/** Records and groups in memory, and a hand that may hold a call of the groups. */
class Stage {
  readonly records = new Map<string, SigningWebhook>();
  readonly groups = new Map<string, Partial<GroupSpec>>();
  before: (step: 'create' | 'change' | 'remove') => Promise<void> = async () => undefined;
  readonly steps: string[] = [];
  readonly webhooks: Webhooks;

  constructor() {
    const { records, groups } = this;
    const set = (id: string, part: Partial<SigningWebhook>): void => {
      const old = records.get(id);
      if (old !== undefined) records.set(id, { ...old, ...part });
    };
    const missing = (): never => {
      throw new BrokerError('not_found', 'no group');
    };
    this.webhooks = new Webhooks({
      store: {
        put: async (id, spec, createdAtMs, secret) => {
          const off = { reason: 'new', atMs: 0 } as const;
          const never = { failingSinceMs: undefined, openUntilMs: undefined, last: undefined };
          const rest = { ...never, lastSuccessAtMs: undefined, previous: undefined };
          records.set(id, { ...spec, ...rest, id, createdAtMs, secret, off, failures: 0 });
          return 'stored';
        },
        read: async (id) => records.get(id),
        list: async () => [...records.values()],
        change: async (id, change) => {
          set(id, change);
          return records.get(id);
        },
        switch: async (id, reason) => {
          const old = records.get(id);
          if (old === undefined) return 'gone';
          if ((old.off === undefined) === (reason === undefined)) return 'same';
          set(id, { off: reason === undefined ? undefined : { reason, atMs: 0 } });
          return 'switched';
        },
        rotate: async () => undefined,
        remove: async (id) => records.delete(id),
        log: async () => [],
        report: async () => ({ status: 'noted' }),
      },
      groups: {
        create: async (spec) => {
          await this.before('create');
          groups.set(spec.name, spec);
          return { status: 'created', group: undefined as never };
        },
        change: async (name, change) => {
          await this.before('change');
          groups.set(name, { ...(groups.get(name) ?? missing()), ...change });
          return undefined as never;
        },
        remove: async (name) => {
          await this.before('remove');
          this.steps.push('remove');
          groups.delete(name);
        },
        progress: async (name) => (groups.has(name) ? ({} as never) : missing()),
        deadLetters: async () => [],
        replay: async () => 0,
        discard: async () => 0,
      },
      poster: { post: async () => ({ status: 'failed', error: 'dns' }) },
      seal: (_, secret) => secret,
      secretsOf: ({ secret }) => [secret],
      userAgent: 'test',
      confirm: async () => true,
      nowMs: () => 1_000,
      monotonicMs: () => 0,
      random: () => '0123456789a',
      restart: async () => {
        this.steps.push('restart');
      },
      onSwitched: () => undefined,
    });
  }

  async make(): Promise<string> {
    const made = await this.webhooks.create(SPEC, START, undefined);
    if (made.status !== 'made') throw new Error(made.status);
    return made.webhook.id;
  }
}

test('of changes that cross each other the group keeps none that the record has not', async () => {
  const stage = new Stage();
  const id = await stage.make();
  const late = Promise.withResolvers<void>();
  let calls = 0;
  stage.before = () => (++calls === 1 ? late.promise : Promise.resolve());
  const first = stage.webhooks.change(id, { maxAttempts: 7 });
  await stage.webhooks.change(id, { filter: { kinds: ['alarm.*'] } });
  late.resolve();
  await first;
  expect(stage.records.get(id)).toMatchObject({ maxAttempts: 7, filter: { kinds: ['alarm.*'] } });
  expect(stage.groups.get(`webhook:${id}`)).toMatchObject({ maxAttempts: 7, filter: { kinds: ['alarm.*'] } });
});

test('a webhook that is deleted while it is made leaves no group', async () => {
  const stage = new Stage();
  stage.before = async (step) => {
    if (step !== 'create') return;
    const [id = ''] = stage.records.keys();
    await stage.webhooks.remove(id);
  };
  await expect(stage.make()).rejects.toMatchObject({ code: 'broker_unavailable' });
  expect([stage.records.size, stage.groups.size]).toEqual([0, 0]);
});

test('a webhook whose deletion broke off cannot be switched on, and can be deleted', async () => {
  const stage = new Stage();
  const id = await stage.make();
  await stage.webhooks.disable(id);
  stage.groups.clear();
  expect(await stage.webhooks.enable(id)).toBe('unmade');
  expect((await stage.webhooks.read(id))?.off?.reason).toBe('asked');
  expect(await stage.webhooks.remove(id)).toBe(true);
  expect(stage.records.size).toBe(0);
});

test('whoever sends for a webhook is stopped before its group goes, so that a deletion is no failure of a turn', async () => {
  const stage = new Stage();
  const id = await stage.make();
  stage.steps.length = 0;
  await stage.webhooks.remove(id);
  expect(stage.steps).toEqual(['restart', 'remove']);
});
