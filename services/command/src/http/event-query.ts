/** Reads what `GET /v1/events` is asked for: a stream or a page, filter and starting place, from the raw query and the headers.
 *  The query is parsed here because `+` stays `+` (an RFC 3339 offset is written with it), and because `device`, `kind` and `tag` may be given
 *  several times. Unknown parameters are refused, like everywhere in the API. Pure. */

import type { RequestSnapshot } from '@lapi-broker/http';
import { parseStartPoint, START_POINTS, type StartPoint } from '../event/cursor.ts';
import { type EventFilter, FILTER_LIMITS, parseFilter } from '../event/filter.ts';
import type { Fault } from './problem.ts';

export type EventQuery =
  | {
      readonly status: 'read';
      readonly filter: EventFilter;
      readonly start: StartPoint;
      /** Undefined: the asker listens. */
      readonly page: { readonly limit: number } | undefined;
    }
  | { readonly status: 'invalid'; readonly faults: readonly Fault[] };

export const PAGE_LIMIT = { min: 1, max: 1_000, default: 100 } as const;

const LISTS = { device: 'devices', kind: 'kinds', tag: 'tags' } as const;
const MAX_PARAMETERS = 64;
const MAX_TERMS = FILTER_LIMITS.devices + FILTER_LIMITS.kinds + FILTER_LIMITS.tags;

export function readEventQuery(
  request: Pick<RequestSnapshot, 'query' | 'header'>,
  shards: number,
  nowMs: number,
): EventQuery {
  const faults: Fault[] = [];
  const terms = { devices: [] as string[], kinds: [] as string[], tags: [] as string[] };
  const isPage = asksForPage(request.header('accept'));
  let from: string | undefined;
  let limit: string | undefined;
  const pairs = (request.query ?? '').split('&').filter((pair) => pair !== '');
  if (pairs.length > MAX_PARAMETERS) return invalid('query', `more than ${MAX_PARAMETERS} parameters`);
  for (const pair of pairs) {
    const equals = pair.indexOf('=');
    const name = decoded(equals < 0 ? pair : pair.slice(0, equals));
    const value = decoded(equals < 0 ? '' : pair.slice(equals + 1));
    if (name === undefined || value === undefined) return invalid('query', 'broken percent-encoding');
    if (isList(name)) {
      const given = value.split(',').filter((term) => term !== '');
      // An empty value is a variable that was not set more often than a wish for the events of everybody.
      if (given.length === 0) faults.push({ path: `query.${name}`, problem: 'is empty; leave it out to get all' });
      terms[LISTS[name]].push(...given);
    } else if (name === 'from') {
      if (from !== undefined) faults.push({ path: 'query.from', problem: 'given more than once' });
      from = value;
    } else if (name === 'limit' && isPage) {
      const { min, max } = PAGE_LIMIT;
      const isNumber = /^\d{1,4}$/.test(value) && Number(value) >= min && Number(value) <= max;
      if (!isNumber || limit !== undefined)
        faults.push({ path: 'query.limit', problem: `is not one number from ${min} to ${max}` });
      limit = value;
    } else if (name === 'limit') {
      faults.push({ path: 'query.limit', problem: 'is for pages; ask with Accept: application/json' });
    } else faults.push({ path: `query.${name.slice(0, 64)}`, problem: 'is not a parameter here' });
  }
  if (terms.devices.length + terms.kinds.length + terms.tags.length > MAX_TERMS) {
    return invalid('query', `more than ${MAX_TERMS} terms`);
  }
  const parsed = parseFilter(terms);
  if (parsed.status === 'invalid') faults.push({ path: 'query', problem: parsed.detail });

  // A browser that connects again repeats the first URL and adds the header, so the header is the newer word.
  const lastEventId = request.header('last-event-id');
  const [path, text] = lastEventId === '' ? ['query.from', from] : ['header.Last-Event-ID', lastEventId];
  const usual: StartPoint = { from: isPage ? 'start' : 'now' };
  const start = text === undefined || text === '' ? usual : parseStartPoint(text, shards, nowMs);
  if (start === undefined) faults.push({ path, problem: `is not ${START_POINTS}` });
  if (parsed.status === 'invalid' || start === undefined || faults.length > 0) return { status: 'invalid', faults };
  const page = isPage ? { limit: limit === undefined ? PAGE_LIMIT.default : Number(limit) } : undefined;
  return { status: 'read', filter: parsed.filter, start, page };
}

/** Who names event streams too wants one: browsers and libraries list much that they could read. */
function asksForPage(accept: string): boolean {
  const types = accept.toLowerCase();
  return types.includes('application/json') && !types.includes('text/event-stream');
}

function isList(name: string): name is keyof typeof LISTS {
  return Object.hasOwn(LISTS, name);
}

function decoded(text: string): string | undefined {
  if (!text.includes('%')) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined; // Becomes a fault of the request.
  }
}

function invalid(path: string, problem: string): EventQuery {
  return { status: 'invalid', faults: [{ path, problem }] };
}
