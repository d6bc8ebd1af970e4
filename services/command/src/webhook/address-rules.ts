/** Answers "may a webhook be sent to this address?" (reliability T9). An address that is not public is refused, in whatever form it is written:
 *  private, loopback, link-local (where clouds keep their credentials), shared, documentation, multicast, and every form that carries an
 *  IPv4 address inside an IPv6 one (mapped, NAT64, 6to4, Teredo). In IPv6 only 2000::/3 is public, so what is not known is refused.
 *  Operators may allow ranges; what they allow counts as it is written. Pure; resolving names is safe-post.ts. */

import { isIPv4, isIPv6 } from 'node:net';

export interface AddressRange {
  readonly family: 4 | 6;
  readonly first: bigint;
  readonly last: bigint;
}

const REFUSED = ranges([
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.31.196.0/24',
  '192.52.193.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '192.175.48.0/24',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/3',
  '::/3',
  // Teredo, ORCHID, benchmarking and other assignments of the protocol itself.
  '2001::/23',
  '2001:db8::/32',
  '2002::/16',
  '2620:4f:8000::/48',
  '3fff::/20',
  '4000::/2',
  '8000::/1',
]);

/** An address as text of a resolver or of a URL without its brackets. What is no address is refused. */
export function isAllowedAddress(text: string, allowed: readonly AddressRange[]): boolean {
  const address = parseAddress(text);
  if (address === undefined) return false;
  return contains(allowed, address) || !contains(REFUSED, address);
}

/** `10.1.0.0/16`, `fd00::/8`, or one address. Undefined for anything else, also where bits are set behind the prefix. */
export function parseRange(text: string): AddressRange | undefined {
  const [address = '', prefix, more] = text.split('/');
  const parsed = parseAddress(address);
  if (parsed === undefined || more !== undefined || (prefix !== undefined && !/^\d{1,3}$/.test(prefix)))
    return undefined;
  const bits = parsed.family === 4 ? 32 : 128;
  const length = prefix === undefined ? bits : Number(prefix);
  if (length > bits) return undefined;
  const size = 1n << BigInt(bits - length);
  if (parsed.value % size !== 0n) return undefined;
  return { family: parsed.family, first: parsed.value, last: parsed.value + size - 1n };
}

/** With commas between; empty = none. Throws a RangeError that names what is no range. */
export function parseRanges(text: string): readonly AddressRange[] {
  return ranges(
    text
      .split(',')
      .map((each) => each.trim())
      .filter((each) => each !== ''),
  );
}

interface Address {
  readonly family: 4 | 6;
  readonly value: bigint;
}

function parseAddress(text: string): Address | undefined {
  if (isIPv4(text)) return { family: 4, value: ipv4(text) };
  // A zone (`fe80::1%eth0`) names an interface of this machine.
  if (!isIPv6(text) || text.includes('%')) return undefined;
  return { family: 6, value: ipv6(text) };
}

function ipv4(text: string): bigint {
  return text.split('.').reduce((value, part) => (value << 8n) | BigInt(part), 0n);
}

/** `text` is valid, so it has at most one `::`, and at most one IPv4 address, at its end. */
function ipv6(text: string): bigint {
  const [head = '', tail] = text.split('::');
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const zeros = new Array<bigint>(8 - before.length - after.length).fill(0n);
  return [...before, ...zeros, ...after].reduce((value, group) => (value << 16n) | group, 0n);
}

function groups(text: string): bigint[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    if (!group.includes('.')) return [BigInt(`0x${group}`)];
    const value = ipv4(group);
    return [value >> 16n, value & 0xffffn];
  });
}

function contains(list: readonly AddressRange[], { family, value }: Address): boolean {
  return list.some((range) => range.family === family && range.first <= value && value <= range.last);
}

function ranges(texts: readonly string[]): readonly AddressRange[] {
  return texts.map((text) => {
    const range = parseRange(text);
    if (range === undefined) throw new RangeError(`${text} is neither an address nor a range such as 10.1.0.0/16`);
    return range;
  });
}
