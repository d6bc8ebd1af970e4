/** Answers "may this URL be that of a webhook?", as far as the URL itself says: scheme, port, credentials, and an address in place of a name. Names
 *  are looked at each time that something is sent (safe-post.ts). Pure. */

import { isIP } from 'node:net';
import { type AddressRange, isAllowedAddress } from './address-rules.ts';

export interface TargetRules {
  /** Beyond the public ones. */
  readonly allowed: readonly AddressRange[];
  /** Plain http as well, port 80. */
  readonly allowHttp: boolean;
  /** Beyond 443. */
  readonly ports: readonly number[];
}

/** With commas between; empty = none. Throws a RangeError that names what is no port. */
export function parsePorts(text: string): readonly number[] {
  const ports = text
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '');
  const wrong = ports.find((each) => !/^\d{1,5}$/.test(each) || Number(each) < 1 || Number(each) > 65_535);
  if (wrong !== undefined) throw new RangeError(`${wrong} is no port`);
  return ports.map(Number);
}

export const URL_CHARS = 2_048;

export interface Target {
  readonly secure: boolean;
  /** A name, or an address without brackets. */
  readonly host: string;
  readonly port: number;
  /** With its port, where that is not the usual one. */
  readonly hostHeader: string;
  readonly path: string;
}

export type ReadTarget =
  | { readonly status: 'target'; readonly target: Target }
  | { readonly status: 'refused'; readonly why: string };

export function readTarget(text: string, rules: TargetRules): ReadTarget {
  // Decimal, octal and hexadecimal forms of addresses leave the parser in the usual one.
  const url = text.length <= URL_CHARS ? URL.parse(text) : null;
  if (url === null) return refused(`must be a URL of at most ${URL_CHARS} characters`);
  const secure = url.protocol === 'https:';
  if (!secure && !(url.protocol === 'http:' && rules.allowHttp)) return refused('must begin with https://');
  if (url.username !== '' || url.password !== '')
    return refused('must not hold credentials; verify the signature instead');
  const usual = secure ? 443 : 80;
  const port = url.port === '' ? usual : Number(url.port);
  if (port !== usual && !rules.ports.includes(port)) {
    return refused(`has port ${port}; allowed: ${[usual, ...rules.ports].join(', ')} (LAPI_WEBHOOK_PORTS)`);
  }
  const host = url.hostname.startsWith('[') ? url.hostname.slice(1, -1) : url.hostname;
  if (isIP(host) !== 0 && !isAllowedAddress(host, rules.allowed)) {
    return refused(`leads to ${host}, which is not a public address (LAPI_WEBHOOK_ALLOW)`);
  }
  return { status: 'target', target: { secure, host, port, hostHeader: url.host, path: url.pathname + url.search } };
}

function refused(why: string): ReadTarget {
  return { status: 'refused', why };
}
