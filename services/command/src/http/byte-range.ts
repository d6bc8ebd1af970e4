/** Reads what a request says about the part and the version it wants (RFC 9110, 13.1.2, 13.1.5 and 14.2). Pure. */

export type ByteRange =
  | { readonly status: 'all' | 'unsatisfiable' }
  | { readonly status: 'part'; readonly first: number; readonly last: number };

const RANGE = /^bytes *= *(\d{0,15}) *- *(\d{0,15}) *$/i;

/** One range; what is malformed, in another unit, or several ranges is ignored, as the RFC allows. */
export function rangeOf(header: string, totalBytes: number): ByteRange {
  const [, from = '', to = ''] = RANGE.exec(header) ?? [];
  if (from === '' && to === '') return { status: 'all' };
  if (from === '') {
    const length = Math.min(Number(to), totalBytes);
    return length === 0
      ? { status: 'unsatisfiable' }
      : { status: 'part', first: totalBytes - length, last: totalBytes - 1 };
  }
  const first = Number(from);
  if (to !== '' && Number(to) < first) return { status: 'all' };
  if (first >= totalBytes) return { status: 'unsatisfiable' };
  return { status: 'part', first, last: to === '' ? totalBytes - 1 : Math.min(Number(to), totalBytes - 1) };
}

/** Does If-None-Match name this version? `etag` with its quotes. */
export function namesVersion(header: string, etag: string): boolean {
  return header.split(',').some((each) => {
    const named = each.trim();
    return named === '*' || named === etag || named === `W/${etag}`;
  });
}
