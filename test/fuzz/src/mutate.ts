/** Damage, from a single bit to a value of another kind: for bytes, for text, for JSON values. What it gets it does not change. Pure. */

import type { Chance } from './chance.ts';

/** Bytes that mean something to a parser on the way. */
const TELLING_BYTES = [0x00, 0x0a, 0x0d, 0x20, 0x22, 0x25, 0x2b, 0x2f, 0x3a, 0x5c, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xff];

export function mutateBytes(chance: Chance, bytes: Buffer, times = chance.between(1, 4)): Buffer {
  let mutated: Buffer = Buffer.from(bytes);
  for (let i = 0; i < times; i++) mutated = mutateOnce(chance, mutated);
  return mutated;
}

function mutateOnce(chance: Chance, bytes: Buffer): Buffer {
  const at = chance.between(0, Math.max(0, bytes.length - 1));
  const length = Math.min(bytes.length - at, chance.pick([1, 1, 2, 4, 16, 64]));
  const [before, part, after] = [bytes.subarray(0, at), bytes.subarray(at, at + length), bytes.subarray(at + length)];
  switch (chance.weighted({ flip: 4, set: 4, drop: 3, insert: 3, repeat: 2, cut: 1, swap: 1 })) {
    case 'flip':
      if (bytes.length > 0) bytes[at] = (bytes[at] as number) ^ (1 << chance.between(0, 7));
      return bytes;
    case 'set':
      if (bytes.length > 0) bytes[at] = chance.pick(TELLING_BYTES);
      return bytes;
    case 'drop':
      return Buffer.concat([before, after]);
    case 'insert':
      return Buffer.concat([
        before,
        chance.is(0.5) ? chance.bytes(length) : Buffer.from([chance.pick(TELLING_BYTES)]),
        part,
        after,
      ]);
    case 'repeat':
      return Buffer.concat([before, ...Array.from({ length: chance.pick([2, 3, 8, 100]) }, () => part), after]);
    case 'cut':
      return Buffer.from(before);
    case 'swap':
      return Buffer.concat([part, before, after]);
  }
}

const TELLING_TEXTS = [
  '',
  ' ',
  '.',
  '..',
  '../..',
  '*',
  '%',
  '%00',
  '%2f',
  '%zz',
  '+',
  '&',
  '?',
  '#',
  '/',
  '//',
  '\\',
  '\0',
  '\r\n',
  '\u2028',
  '\ufeff',
  '\ud800',
  'ü',
  '密钥',
  '😀',
  'null',
  'true',
  '-1',
  '1e999',
  'NaN',
  '__proto__',
  'constructor',
  'toString',
  'prototype',
  '{}',
  '[]',
  '"',
  "' OR '1'='1",
  '<script>',
  '{{7*7}}',
  'x'.repeat(65),
  'x'.repeat(5_000),
];

export function mutateText(chance: Chance, text: string): string {
  const at = chance.between(0, text.length);
  const telling = chance.pick(TELLING_TEXTS);
  switch (chance.weighted({ bytes: 4, replace: 2, insert: 3, cut: 2, fold: 1, twice: 1 })) {
    case 'bytes':
      return mutateBytes(chance, Buffer.from(text), 1).toString('latin1');
    case 'replace':
      return telling;
    case 'insert':
      return text.slice(0, at) + telling + text.slice(at);
    case 'cut':
      return text.slice(0, at);
    case 'fold':
      return chance.is(0.5) ? text.toLowerCase() : text.toUpperCase();
    case 'twice':
      return text + text;
  }
}

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

const TELLING_VALUES: readonly Json[] = [
  null,
  true,
  false,
  0,
  -0,
  -1,
  1.5,
  1e308,
  2 ** 31,
  2 ** 53,
  -(2 ** 63),
  '',
  'null',
  '0',
  [],
  {},
  [[]],
  [null],
  { '': '' },
  { toString: 1 },
];

export function anyJson(chance: Chance, depth = 3): Json {
  switch (chance.weighted({ telling: 4, text: 2, number: 2, list: depth > 0 ? 1 : 0, object: depth > 0 ? 2 : 0 })) {
    case 'telling':
      return chance.pick(TELLING_VALUES);
    case 'text':
      return mutateText(chance, chance.letters(chance.between(0, 20)));
    case 'number':
      return chance.is(0.5) ? chance.between(-1_000, 100_000) : chance.next() * 1e12;
    case 'list':
      return Array.from({ length: chance.between(0, 4) }, () => anyJson(chance, depth - 1));
    case 'object':
      return Object.fromEntries(
        Array.from({ length: chance.between(0, 4) }, () => [
          chance.letters(chance.between(0, 8)),
          anyJson(chance, depth - 1),
        ]),
      );
  }
}

/** Another value at one place, a member more or less, or a member by another name. */
export function mutateJson(chance: Chance, value: Json): Json {
  if (typeof value !== 'object' || value === null || chance.is(0.1)) return damaged(chance, value);
  if (Array.isArray(value)) {
    const list: Json[] = [...value];
    const at = chance.between(0, Math.max(0, list.length - 1));
    if (list.length === 0 || chance.is(0.2)) list.splice(at, 0, anyJson(chance));
    else if (chance.is(0.15)) list.splice(at, 1);
    else if (chance.is(0.1)) return Array.from({ length: chance.pick([33, 1_001, 5_000]) }, () => list[at] as Json);
    else list[at] = mutateJson(chance, list[at] as Json);
    return list;
  }
  const members = Object.entries(value as { readonly [name: string]: Json });
  const at = chance.between(0, Math.max(0, members.length - 1));
  const member = members[at];
  const how = member === undefined ? 'more' : chance.weighted({ more: 3, fewer: 3, name: 2, value: 12 });
  const [name, inner] = member ?? [chance.letters(5), null];
  if (how === 'more') members.push([mutateText(chance, name), anyJson(chance)]);
  else if (how === 'fewer') members.splice(at, 1);
  else if (how === 'name') members[at] = [mutateText(chance, name), inner];
  else members[at] = [name, mutateJson(chance, inner)];
  return objectOf(members);
}

/** Keeps `__proto__` an ordinary member. */
function objectOf(members: readonly (readonly [string, Json])[]): Json {
  const object: Record<string, Json> = Object.create(null);
  for (const [name, value] of members) object[name] = value;
  return object;
}

function damaged(chance: Chance, value: Json): Json {
  if (typeof value === 'string' && chance.is(0.7)) return mutateText(chance, value);
  if (typeof value === 'number' && chance.is(0.6)) {
    return chance.pick([value + 1, value - 1, -value, value * 1_000, value / 2, String(value), value + 0.5]);
  }
  return anyJson(chance);
}
