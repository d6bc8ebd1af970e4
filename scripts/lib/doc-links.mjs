/** Reads Markdown for what it points to: relative links, anchors, and paths of this repository in code marks. Enough of Markdown for our own
 *  pages: fenced blocks are skipped, anchors are made as GitHub makes them. Pure. */

/** @typedef {{ line: number, target: string }} Reference */

/** @param {string} text
 *  @returns {{ line: number, text: string }[]} outside of fenced blocks */
function prose(text) {
  let fence = '';
  return text.split('\n').flatMap((line, index) => {
    const mark = /^\s*(```+|~~~+)/.exec(line)?.[1] ?? '';
    if (mark !== '' && (fence === '' || mark.startsWith(fence))) {
      fence = fence === '' ? mark : '';
      return [];
    }
    return fence === '' ? [{ line: index + 1, text: line }] : [];
  });
}

/** Targets of links and pictures that lead nowhere outside.
 *  @param {string} text
 *  @returns {Reference[]} */
export function relativeLinks(text) {
  return prose(text).flatMap(({ line, text: content }) =>
    [...content.replace(/`[^`]*`/g, '').matchAll(/\]\(([^()\s]+)\)/g)]
      .map(([, target = '']) => ({ line, target }))
      .filter(({ target }) => !/^[a-z][a-z+.-]*:/i.test(target)),
  );
}

const ROOTS = /^(?:libs|services|test|scripts|docs)\/[\w./-]*[\w/]$/;

/** `libs/routing/src/index.ts` and `test/e2e` in code marks; patterns and placeholders are left out.
 *  @param {string} text
 *  @returns {Reference[]} */
export function namedPaths(text) {
  return prose(text).flatMap(({ line, text: content }) =>
    [...content.matchAll(/`([^`]+)`/g)]
      .map(([, target = '']) => ({ line, target }))
      .filter(({ target }) => ROOTS.test(target) && !/(?:^|\/)(?:dist|result)(?:\/|$)/.test(target)),
  );
}

/** @param {string} text
 *  @returns {Set<string>} of all headings */
export function anchors(text) {
  /** @type {Map<string, number>} */
  const seen = new Map();
  const found = prose(text).flatMap(({ text: content }) => {
    const heading = /^#{1,6}\s+(.*?)\s*#*$/.exec(content)?.[1];
    if (heading === undefined) return [];
    const slug = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-');
    const count = seen.get(slug) ?? 0;
    seen.set(slug, count + 1);
    return [count === 0 ? slug : `${slug}-${count}`];
  });
  return new Set(found);
}
