/** Guards the pages that are made from the code: what is in the repository is what the code says today. */

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { generatedDocs } from './generated-docs.mjs';

const ROOT = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));

test.each(generatedDocs().map(({ file, text }) => [file, text]))('%s is up to date (npm run docs)', (file, text) => {
  expect(readFileSync(path.join(ROOT, file), 'utf8')).toBe(text);
});

test('no page depends on the machine that wrote it', () => {
  const settings = generatedDocs().find(({ file }) => file.endsWith('settings.md'))?.text ?? '';
  expect(settings).toContain('| `LAPI_NODE_NAME` | the host name |');
});
