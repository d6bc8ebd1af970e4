/** Writes the subject or topic of a message from a template such as `lapi.events.{code}.{kind}`.
 *  The dots of a kind separate levels, so a whole family can be asked for (`lapi.events.*.alarm.>`, `lapi/+/alarm/#`). Every other character
 *  that is not one of A–Z a–z 0–9 - _ becomes `_`, and so does a level that would be empty: no device can choose a wildcard, another level, or
 *  somebody else's subject. Two codes may share a subject that way; the message itself says which it is. Pure. */

import type { SinkMessage } from './sink.ts';

export type Separator = '.' | '/';

export interface Address {
  /** What all addresses of the template begin with: its levels before the first placeholder; may be empty. */
  readonly prefix: string;
  of(message: Pick<SinkMessage, 'code' | 'kind'>): string;
}

const LEVEL = /^(?:[A-Za-z0-9_-]|\{code\}|\{kind\})+$/;
const MAX_LENGTH = 200;
const MAX_LEVELS = 16;
/** Of what stands for a code or kind; a stream broker bounds its subjects. */
const MAX_WORD = 128;

/** Throws RangeError that says what would have been right. */
export function parseAddress(template: string, separator: Separator): Address {
  const levels = template.split(separator);
  if (template.length > MAX_LENGTH || levels.length > MAX_LEVELS || !levels.every((level) => LEVEL.test(level))) {
    throw new RangeError(
      `must be levels of A–Z a–z 0–9 - _ {code} {kind}, joined by ${separator}, such as ${['lapi', '{code}', '{kind}'].join(separator)}`,
    );
  }
  const fixed = levels.findIndex((level) => level.includes('{'));
  return {
    prefix: levels.slice(0, fixed < 0 ? levels.length : fixed).join(separator),
    of: ({ code, kind }) =>
      template
        .replaceAll('{code}', safe(code))
        .replaceAll('{kind}', kind.slice(0, MAX_WORD).split('.').map(safe).join(separator)),
  };
}

function safe(word: string): string {
  return word === '' ? '_' : word.slice(0, MAX_WORD).replaceAll(/[^A-Za-z0-9_-]/g, '_');
}
