/** A plan is what its seed says, and nothing in it is repeated that must not be. */

import { expect, test } from 'vitest';
import { planRun } from './plan.ts';

const OPTIONS = { commands: 500, devices: 24, edges: 2, loadMs: 10_000 };

test('the same seed plans the same run, another seed another one', () => {
  expect(planRun({ seed: 7, ...OPTIONS })).toEqual(planRun({ seed: 7, ...OPTIONS }));
  expect(planRun({ seed: 8, ...OPTIONS })).not.toEqual(planRun({ seed: 7, ...OPTIONS }));
});

test('three of five commands must not be repeated, and only GET and retrySafe ones may', () => {
  const { commands } = planRun({ seed: 1, ...OPTIONS });
  const repeatable = commands.filter(({ maxAttempts }) => maxAttempts > 1);
  expect(repeatable.length / commands.length).toBeGreaterThan(0.25);
  expect(repeatable.length / commands.length).toBeLessThan(0.45);
  for (const { method, retrySafe, maxAttempts } of commands) {
    expect(maxAttempts > 1).toBe(method === 'GET' || retrySafe);
  }
  expect(new Set(commands.map(({ marker }) => marker)).size).toBe(commands.length);
});
