/** Registration in pieces: nonces that no broker issued, signatures over anything, parameters in any form, each sent from an address of its
 *  own so that no story uses up another one's failures (protocol F13, F14).
 *  Whatever secret, nonce, Sign or Cnonce passes through here is remembered as a canary: it must not turn up in any log (S5).
 *  Written from the protocol; knows no package of the broker. */

import { createHmac, randomBytes, randomInt } from 'node:crypto';
import type { Broker, RunningProcess, ServiceReady } from '@lapi-broker/fixture';
import { newCode } from './device.ts';
import { type HttpAnswer, REGISTER, Wire } from './wire.ts';

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const EPOCH_S = 1_704_067_200;
const NONCE = /"Nonce":"([^"]*)"/g;
/** Shorter values would be found by chance. */
const LEAST_CANARY_CHARS = 12;

export const CNONCE = 'zY9xW8vU7tS6rQ5p';

const canaries = new Set<string>();

export function remember(...values: readonly string[]): void {
  for (const value of values) if (value.length >= LEAST_CANARY_CHARS) canaries.add(value);
}

export function canaryCount(): number {
  return canaries.size;
}

/** `process: line` for each line of output that holds a canary, as it is, percent-encoded or in base64url. */
export function leaks(processes: readonly RunningProcess<ServiceReady>[]): string[] {
  const forms = [...canaries].flatMap((value) => [
    ...new Set([value, encodeURIComponent(value), value.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')]),
  ]);
  return processes.flatMap((process) =>
    process
      .lines()
      .filter((line) => forms.some((form) => line.includes(form)))
      .map((line) => `${process.name}: ${line}`),
  );
}

let addresses = 0;

/** A loopback address that no other story uses. */
export function newAddress(): string {
  addresses++;
  return `127.1.${addresses >> 8}.${addresses & 0xff}`;
}

const wires = new Set<Wire>();

/** A connection to an edge that `closeWires` ends. */
export async function connect(broker: Broker, edge = 0, from?: string): Promise<Wire> {
  const wire = await Wire.connect(broker.edgeUrl(edge), from);
  wires.add(wire);
  return wire;
}

export function closeWires(): void {
  for (const wire of wires) wire.destroy();
  wires.clear();
}

export interface Applicant {
  readonly code: string;
  readonly secret: string;
}

/** In the books of the broker, not connected. */
export async function provisioned(
  broker: Broker,
  settings: Readonly<Record<string, unknown>> = {},
  code = newCode(),
): Promise<Applicant> {
  const secret = await broker.provision(code, { profile: 'quiet', ...settings });
  remember(secret);
  return { code, secret };
}

export function newSecret(): string {
  const secret = randomBytes(24).toString('base64url');
  remember(secret);
  return secret;
}

function base62(value: number, digits: number): string {
  let text = '';
  for (let rest = value; text.length < digits; rest = Math.floor(rest / 62)) text = DIGITS[rest % 62] + text;
  return text;
}

export function randomDigits(count: number): string {
  return Array.from({ length: count }, () => DIGITS[randomInt(62)]).join('');
}

/** Protocol 4.1; `key` in base64, as edges get it. */
export function nonceAt(key: string, unixSeconds: number, random = randomDigits(4)): string {
  const head = base62(unixSeconds - EPOCH_S, 5) + random;
  const mac = createHmac('sha256', Buffer.from(key, 'base64')).update(`nonce1:${head}`).digest();
  const nonce = head + base62(mac.readUIntBE(0, 6) % 62 ** 7, 7);
  remember(nonce);
  return nonce;
}

export function nonceOfAge(key: string, ageS: number): string {
  return nonceAt(key, Math.floor(Date.now() / 1_000) - ageS);
}

/** Protocol 4.1: when a nonce was made, unix seconds. */
export function nonceTime(nonce: string): number {
  return [...nonce.slice(0, 5)].reduce((value, digit) => value * 62 + DIGITS.indexOf(digit), 0) + EPOCH_S;
}

/** Protocol 3.1 over any segments; bytes for makers' names that are not UTF-8. */
export function signOver(secret: string, ...segments: readonly (string | Buffer)[]): string {
  const text = segments.flatMap((segment) => [Buffer.from('/'), Buffer.from(segment)]).slice(1);
  const sign = createHmac('sha256', secret).update(Buffer.concat(text)).digest('base64');
  remember(sign);
  return sign;
}

export type Parameters = Readonly<Record<string, string | undefined>>;

/** The sound parameters of a second GET, as they stand in the query; undefined in `changes` leaves one out. */
export function parametersOf({ code, secret }: Applicant, nonce: string, changes: Parameters = {}): Parameters {
  remember(CNONCE);
  return {
    Vendor: 'Uniview',
    DeviceType: 'NVR',
    DeviceCode: code,
    Algorithm: 'HMAC-SHA256',
    Nonce: nonce,
    Cnonce: CNONCE,
    Sign: encodeURIComponent(signOver(secret, 'Uniview', 'NVR', code, 'HMAC-SHA256', nonce)),
    ...changes,
  };
}

export function targetOf(parameters: Parameters, path = REGISTER): string {
  const pairs = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return `${path}?${pairs.map(([name, value]) => `${name}=${value}`).join('&')}`;
}

/** Target of a sound second GET. */
export function stepTwo(applicant: Applicant, nonce: string, changes: Parameters = {}): string {
  return targetOf(parametersOf(applicant, nonce, changes));
}

/** A GET with the headers of a handshake. */
export async function ask(
  wire: Wire,
  target: string = REGISTER,
  headers: Readonly<Record<string, string | null>> = {},
): Promise<HttpAnswer> {
  const answer = await wire.get(target, headers);
  for (const [, nonce = ''] of answer.body.matchAll(NONCE)) remember(nonce);
  return answer;
}

export function nonceIn(answer: HttpAnswer): string {
  const nonce = [...answer.body.matchAll(NONCE)][0]?.[1];
  if (nonce === undefined) throw new Error(`no nonce in: ${answer.status} ${answer.body}`);
  return nonce;
}

/** First GET; answers the nonce. */
export async function challenge(wire: Wire): Promise<string> {
  return nonceIn(await ask(wire));
}

/** Both steps on one connection. */
export async function registered(broker: Broker, applicant: Applicant, edge = 0, from?: string): Promise<Wire> {
  const wire = await connect(broker, edge, from);
  const answer = await ask(wire, stepTwo(applicant, await challenge(wire)));
  if (answer.status !== 101) throw new Error(`register: ${answer.status} ${answer.body}`);
  return wire;
}

/** An answer without what differs from one to the next: the nonce and the time. */
export function shapeOf({ status, headers, body }: HttpAnswer): unknown {
  return {
    status,
    headers: [...headers].filter(([name]) => name !== 'date'),
    body: body.replaceAll(NONCE, '"Nonce":"?"'),
  };
}
