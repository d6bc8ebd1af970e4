/** `npm run docs`: writes the pages of docs/ that are made from the code (lib/generated-docs.mjs). Says which changed. */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { generatedDocs } from './lib/generated-docs.mjs';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

for (const { file, text } of generatedDocs()) {
  const target = path.join(ROOT, file);
  const same = existsSync(target) && readFileSync(target, 'utf8') === text;
  if (!same) writeFileSync(target, text);
  process.stdout.write(`${same ? 'unchanged' : 'written  '}  ${file}\n`);
}
