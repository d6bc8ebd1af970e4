/** Guards the documentation against pointing nowhere: links, anchors and named files of all our pages. */

import { existsSync, globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { anchors, namedPaths, relativeLinks } from './doc-links.mjs';

const ROOT = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const PAGES = ['*.md', 'docs/**/*.md'].flatMap((pattern) => globSync(pattern, { cwd: ROOT })).sort();
const read = (page: string): string => readFileSync(path.join(ROOT, page), 'utf8');

test('there are pages to check', () => {
  expect(PAGES).toContain('README.md');
  expect(PAGES).toContain(path.join('docs', 'platform', 'api.md'));
});

test.each(PAGES)('every relative link of %s leads to a file, and to a heading where it names one', (page) => {
  const broken = relativeLinks(read(page)).filter(({ target }) => {
    const [file = '', anchor] = target.split('#');
    const to = file === '' ? page : path.join(path.dirname(page), file);
    if (!existsSync(path.join(ROOT, to))) return true;
    return anchor !== undefined && to.endsWith('.md') && !anchors(read(to)).has(anchor);
  });
  expect(broken).toEqual([]);
});

test.each(PAGES)('every file that %s names in code marks exists', (page) => {
  expect(namedPaths(read(page)).filter(({ target }) => !existsSync(path.join(ROOT, target)))).toEqual([]);
});

test('links are found in prose, not in blocks or code marks, and not those that lead outside', () => {
  const text = '[a](b.md#c) `[x](y)` [o](https://o)\n```\n[z](z)\n```\n![p](p.png)';
  expect(relativeLinks(text)).toEqual([
    { line: 1, target: 'b.md#c' },
    { line: 5, target: 'p.png' },
  ]);
});

test('paths are found in code marks; patterns, placeholders and built files are not paths', () => {
  const text = '`libs/a/b.ts` `test/e2e` `libs/*/src` `services/<name>` `test/load/dist/main.js` `docs/`';
  expect(namedPaths(text).map(({ target }) => target)).toEqual(['libs/a/b.ts', 'test/e2e']);
});

test('anchors are made as GitHub makes them', () => {
  expect([...anchors('# A b\n## `written` and `executed`\n## GET /v1/events\n## A b\n```\n# no\n```')]).toEqual([
    'a-b',
    'written-and-executed',
    'get-v1events',
    'a-b-1',
  ]);
});
