/** The shortest part of a history that still shows a violation: what people have to read. Pure. Entries are left out in ever smaller blocks as long
 *  as the same violation is found without them; what is left cannot be shortened by one more entry. */

const TRIES = 2_000;

/** `shows` must be true of all entries together; else they are answered as they are. */
export function shortest<E>(entries: readonly E[], shows: (entries: readonly E[]) => boolean): readonly E[] {
  if (!shows(entries)) return entries;
  let kept = entries;
  let tries = 0;
  for (let block = Math.ceil(kept.length / 2); block >= 1; block = block === 1 ? 0 : Math.ceil(block / 2)) {
    for (let at = 0; at < kept.length && tries < TRIES; ) {
      tries += 1;
      const less = kept.toSpliced(at, block);
      if (shows(less)) kept = less;
      else at += block;
    }
  }
  return kept;
}

/** Of a statement with numbers in it: what it says apart from them. */
export function gist(what: string): string {
  return what.replace(/\d+/g, '#');
}
