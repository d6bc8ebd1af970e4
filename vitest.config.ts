/** Three kinds of test. unit: pure, no server. contract: one suite per port, on memory and on real Redis. e2e: real processes, stories.
 *  Files run in processes of their own, two at a time, because two cores are what a small machine has. No retries: a test that fails now and
 *  then is a finding. */

import { defineConfig } from 'vitest/config';

const packages = '{libs,services,test}/*/src';
const shared = {
  resolve: { conditions: ['source'] },
  ssr: { resolve: { conditions: ['source', 'node', 'import'] } },
};
const everyFile = {
  pool: 'forks' as const,
  retry: 0,
  setupFiles: ['test/fixture/src/leak-check.ts'],
};

export default defineConfig({
  test: {
    maxWorkers: 2,
    passWithNoTests: false,
    projects: [
      {
        ...shared,
        test: {
          ...everyFile,
          name: 'unit',
          testTimeout: 30_000,
          include: [`${packages}/**/*.test.ts`, 'scripts/**/*.test.ts'],
          exclude: ['**/*.contract.test.ts', 'test/e2e/**', '**/dist/**', '**/node_modules/**'],
        },
      },
      {
        ...shared,
        test: {
          ...everyFile,
          name: 'contract',
          include: [`${packages}/**/*.contract.test.ts`],
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
      {
        ...shared,
        test: {
          ...everyFile,
          name: 'e2e',
          include: ['test/e2e/src/**/*.test.ts'],
          // Concurrent tests of a file mostly wait for the clocks of the protocol.
          maxConcurrency: 32,
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
