/** Answers "may the platform call this URL on a device at all, and is it one of the guarded ones?" (protocol C5, C10, S13)
 *  Paths are matched once percent-decoded, in any letter case and for every API version, because devices differ in what they
 *  tolerate; a path that a device could read in two ways (dot segments, encoded slashes, encoded `%`) is refused. Prefixes match
 *  without a border: `/System/Reboot;x` and `/System/RebootNow` are guarded like `/System/Reboot`. Who may call what is granted
 *  elsewhere. Pure. */

export const REQUEST_URL_BYTES = 2048;

/** Denied unless a key is granted them (S13). */
export type GuardedArea = 'users' | 'security' | 'upgrade' | 'reboot' | 'upserver' | 'pacs';

export type RequestUrl =
  | {
      readonly status: 'ok';
      /** Once decoded, without the query, for matching against grants. Never sent. */
      readonly path: string;
      readonly guard: GuardedArea | undefined;
    }
  | { readonly status: 'invalid_request' | 'forbidden_by_policy'; readonly reason: string };

/** `/LAPI/V1.0` as devices might read it: any version, or none. */
const API = '^/lapi/(?:[^/]+/)?';

const GUARDS: readonly (readonly [GuardedArea, RegExp])[] = [
  ['users', new RegExp(`${API}system/users`)],
  ['security', new RegExp(`${API}system/security`)],
  ['upgrade', new RegExp(`${API}system/upgrade`)],
  ['reboot', new RegExp(`${API}system/reboot`)],
  ['upserver', new RegExp(`${API}system/upserver`)],
  ['pacs', new RegExp(`${API}pacs`)],
];

const SESSION_PATH = new RegExp(`${API}system/upserver/(?:register|keepalive|unregister)`);
const SUBSCRIPTION_PATH = new RegExp(`${API}system/event/subscription`);

/** U+FFFD is what the transport makes of bytes that are no UTF-8: the device would get something else than was sent. */
const BROKEN_TEXT = /[\p{Cs}\uFFFD]/u;
const CONTROL = /\p{Cc}/u;
const ENCODED_CONTROL = /%(?:[01][0-9a-f]|7f)/i;
const ENCODED_SEPARATOR = /%(?:2f|5c|3f|23|25)/i;

function invalid(reason: string): RequestUrl {
  return { status: 'invalid_request', reason };
}

/** `platformSubscribes`: the profile leaves event subscriptions to the platform (C10). */
export function checkRequestUrl(url: string, platformSubscribes = false): RequestUrl {
  if (!url.startsWith('/LAPI/')) return invalid('RequestURL must start with /LAPI/');
  if (url.length > REQUEST_URL_BYTES || Buffer.byteLength(url) > REQUEST_URL_BYTES)
    return invalid(`RequestURL exceeds ${REQUEST_URL_BYTES} bytes`);
  if (BROKEN_TEXT.test(url)) return invalid('RequestURL is not valid UTF-8');
  if (CONTROL.test(url) || ENCODED_CONTROL.test(url)) return invalid('RequestURL contains a control character');
  if (url.includes('#')) return invalid('RequestURL contains a fragment');

  const mark = url.indexOf('?');
  const rawPath = mark === -1 ? url : url.slice(0, mark);
  if (rawPath.includes('//')) return invalid('the path of RequestURL contains //');
  if (rawPath.includes('\\') || ENCODED_SEPARATOR.test(rawPath)) {
    return invalid('the path of RequestURL contains a backslash or an encoded / \\ ? # %');
  }
  const path = decoded(rawPath);
  if (path === undefined) return invalid('the path of RequestURL is not percent-encoded UTF-8');
  if (CONTROL.test(path)) return invalid('RequestURL contains a control character');
  if (path.split('/').some((segment) => segment === '.' || segment === '..')) {
    return invalid('the path of RequestURL contains a . or .. segment');
  }

  const folded = path.toLowerCase();
  if (SESSION_PATH.test(folded)) {
    return { status: 'forbidden_by_policy', reason: 'registration and keepalive belong to the broker' };
  }
  if (!platformSubscribes && SUBSCRIPTION_PATH.test(folded)) {
    return { status: 'forbidden_by_policy', reason: 'the broker keeps the event subscription of this device' };
  }
  return { status: 'ok', path, guard: GUARDS.find(([, pattern]) => pattern.test(folded))?.[0] };
}

function decoded(path: string): string | undefined {
  try {
    return decodeURIComponent(path);
  } catch {
    return undefined; // A stray `%`, or bytes that are not UTF-8: refused by the caller.
  }
}
