// Builds the package in the current directory: TypeScript to dist/, then the Lua files beside it, which tsc does not copy.
import { spawnSync } from 'node:child_process';
import { cpSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(import.meta.url);
const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
const result = spawnSync(process.execPath, [tsc, '-b'], { stdio: 'inherit' });
if (result.status !== 0) process.exit(result.status ?? 1);
cpSync('src', 'dist', {
  recursive: true,
  filter: (file) => !path.extname(file) || /\.(lua|json|html|css)$/.test(file),
});
