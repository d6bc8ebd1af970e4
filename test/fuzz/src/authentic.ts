/** Answers "may this request have become a WebSocket?" by the protocol alone: a Register path, a nonce that the broker gave out, a device in its books,
 *  and a Sign that one of the readings of 3.2 verifies. Shares no code with the broker, so a mistake there is not repeated here. More liberal than
 *  the broker where that costs nothing: what it denies must never get a 101. Pure. */

import { createHmac } from 'node:crypto';

/** What is known of the broker's secrets. */
export interface Known {
  secretOf(code: string): string | undefined;
  wasGivenOut(nonce: string): boolean;
}

const SIGNED = ['vendor', 'devicetype', 'devicecode', 'algorithm', 'nonce'] as const;
const REGISTER = /^\/LAPI\/V1\.0\/System\/UpServer\/Register\/?$/i;
const MOST_READINGS = 200;

export interface Authentic {
  readonly code: string;
  readonly nonce: string;
}

/** For each request line in the bytes; undefined if none of them is authentic. */
export function authenticIn(bytes: Buffer, known: Known): Authentic | undefined {
  for (const [, target = ''] of bytes.toString('latin1').matchAll(/GET (\S+) HTTP\/1\.1/g)) {
    const mark = target.indexOf('?');
    if (mark < 0 || !REGISTER.test(target.slice(0, mark))) continue;
    const found = authentic(target.slice(mark + 1), known);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** `query`: raw bytes as latin1. */
function authentic(query: string, known: Known): Authentic | undefined {
  const values = new Map<string, string[]>();
  for (const part of query.split('&')) {
    const equals = part.indexOf('=');
    const name = (equals < 0 ? part : part.slice(0, equals)).toLowerCase();
    values.set(name, [...(values.get(name) ?? []), equals < 0 ? '' : part.slice(equals + 1)]);
  }
  const signs = (values.get('sign') ?? []).flatMap(signReadings);
  for (const read of [decoded, (raw: string) => raw, (raw: string) => decoded(raw.replaceAll('+', ' '))]) {
    const readings = SIGNED.map((name) =>
      (values.get(name) ?? (name === 'algorithm' ? ['', undefined] : [])).map((raw) =>
        raw === undefined ? undefined : read(raw),
      ),
    );
    for (const [vendor, type, code, algorithm, nonce] of combinations(readings)) {
      const secret = known.secretOf(code ?? '');
      if (secret === undefined || !known.wasGivenOut(nonce ?? '')) continue;
      const text = [vendor, type, code, ...(algorithm === undefined ? [] : [algorithm]), nonce].join('/');
      const mac = createHmac('sha256', secret).update(Buffer.from(text, 'latin1')).digest('hex');
      if (signs.includes(mac)) return { code: code ?? '', nonce: nonce ?? '' };
    }
  }
  return undefined;
}

/** `%` with two digits is a byte, everything else stays (G1). */
function decoded(raw: string): string {
  return raw.replace(/%([0-9a-f]{2})/gi, (_all, digits: string) => String.fromCharCode(Number.parseInt(digits, 16)));
}

/** Hex of the 32 bytes that a Sign may mean (G4). */
function signReadings(raw: string): string[] {
  return [raw, decoded(raw), decoded(decoded(raw))].flatMap((text) => {
    const standard = text
      .replace(/[\r\n]/g, '')
      .replace(/[ -]/g, '+')
      .replaceAll('_', '/')
      .replace(/=+$/, '');
    return /^[A-Za-z0-9+/]{43}$/.test(standard) ? [Buffer.from(standard, 'base64').toString('hex')] : [];
  });
}

function combinations(lists: readonly (readonly (string | undefined)[])[]): (string | undefined)[][] {
  let rows: (string | undefined)[][] = [[]];
  for (const list of lists) rows = rows.flatMap((row) => list.map((value) => [...row, value])).slice(0, MOST_READINGS);
  return rows;
}
