/** Guards the counting: nothing that went wrong may add up to "0 failed". */

import { expect, test } from 'vitest';
import { countTests } from './vitest-report.mjs';

const file = (status: string, ...tests: string[]) => ({
  status,
  assertionResults: tests.map((each) => ({ status: each })),
});

test('tests are counted over all files; skipped ones are neither passed nor failed', () => {
  const report = { testResults: [file('passed', 'passed', 'skipped'), file('failed', 'failed', 'passed')] };
  expect(countTests(report, 1)).toEqual({ passed: 2, failed: 1, skipped: 1 });
});

test('a file that fails outside its tests is one failure', () => {
  expect(countTests({ testResults: [file('failed', 'passed'), file('failed')] }, 1)).toEqual({
    passed: 1,
    failed: 2,
    skipped: 0,
  });
});

test('a run that ends badly without a failed test, or without a report, is one failure', () => {
  expect(countTests({ testResults: [file('passed', 'passed')] }, 1).failed).toBe(1);
  expect(countTests(undefined, null).failed).toBe(1);
});
