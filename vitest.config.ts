import { defineConfig } from 'vitest/config';

const packages = '{libs,services,test}/*/src';
const shared = { resolve: { conditions: ['source'] }, ssr: { resolve: { conditions: ['source', 'node', 'import'] } } };

/** Three kinds of test. unit: pure, no server. contract: one suite per port, on memory and real Redis. e2e: real processes. */
export default defineConfig({
  test: {
    projects: [
      {
        ...shared,
        test: {
          name: 'unit',
          include: [`${packages}/**/*.test.ts`],
          exclude: ['**/*.contract.test.ts', 'test/e2e/**'],
        },
      },
      {
        ...shared,
        test: { name: 'contract', include: [`${packages}/**/*.contract.test.ts`], testTimeout: 30_000, hookTimeout: 60_000 },
      },
      {
        ...shared,
        test: { name: 'e2e', include: ['test/e2e/src/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 120_000 },
      },
    ],
  },
});
