import { waitFor } from '@lapi-broker/fixture';
import { createMetrics } from '@lapi-broker/telemetry';
import { afterEach, expect, it } from 'vitest';
import type { Group, GroupProgress } from './group.ts';
import { showGroups } from './group-metrics.ts';
import { GroupWatch } from './group-watch.ts';

const PROGRESS: GroupProgress = {
  lag: 7,
  waiting: 5,
  inFlight: 3,
  deadLetters: 2,
  acknowledged: 11,
  deadLettersDropped: 0,
  oldestAtMs: 90_000,
};

let groups: string[] = [];
let turn = true;
let failures = 0;
const watch = new GroupWatch({
  tend: async () => groups.map((name) => ({ name }) as Group),
  progress: async (name) => {
    if (name === 'broken') throw new Error('away');
    return PROGRESS;
  },
  holdsTurn: async () => turn,
  onFailure: () => {
    failures += 1;
  },
  intervalMs: 5,
});
afterEach(() => watch.stop());

const until = (what: string, condition: () => boolean): Promise<unknown> =>
  waitFor(condition, { deadlineMs: 10_000, what });

it('how far each group is shows as metrics, by the process whose turn it is, and what is gone shows nothing', async () => {
  const metrics = createMetrics('test');
  showGroups(
    metrics,
    () => watch.seen,
    () => 100_000,
  );
  groups = ['vms', 'webhook:1'];
  await watch.start();
  await until('both seen', () => watch.seen.length === 2);
  const text = await metrics.text();
  for (const [name, value] of [
    ['lag', 7],
    ['waiting', 5],
    ['in_flight', 3],
    ['dead_letters', 2],
    ['oldest_seconds', 10],
  ] as const) {
    expect(text).toContain(`lapi_subscription_${name}{subscription="vms",service="test"} ${value}\n`);
    expect(text).toContain(`lapi_subscription_${name}{subscription="webhook:1",service="test"} ${value}\n`);
  }
  groups = ['webhook:1'];
  await until('one gone', () => watch.seen.length === 1);
  expect(await metrics.text()).not.toContain('"vms"');
  // A look that failed changes nothing.
  groups = ['broken'];
  await until('a failure', () => failures > 0);
  expect(watch.seen).toHaveLength(1);
  turn = false;
  await until('the turn lost', () => watch.seen.length === 0);
  expect(await metrics.text()).not.toContain('webhook:1');
});
