/** Compiles packages with turbo: only what changed, nothing said unless it fails. */

import path from 'node:path';
import { runQuietly } from './child.mjs';

/** @param {{ root: string, node: string, env: NodeJS.ProcessEnv, packages: readonly string[], signal: AbortSignal }} options an empty list builds all */
export async function build({ root, node, env, packages, signal }) {
  const turbo = path.join(root, 'node_modules', 'turbo', 'bin', 'turbo');
  const filters = packages.map((name) => `--filter=${name}`);
  await runQuietly(
    {
      name: 'The build',
      command: node,
      args: [turbo, 'run', 'build', ...filters, '--output-logs=errors-only', '--ui=stream', '--no-color'],
      cwd: root,
      env,
    },
    signal,
  );
}
