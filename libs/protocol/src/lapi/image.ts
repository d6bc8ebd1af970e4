/** Answers "which members of a notification are pictures, and how does the text go on without them?" (protocol 11.4)
 *
 *  kind                 member that holds base64, from the notification's `Data` on
 *  structure            /StructureInfo/ImageInfoList/<n>/Data
 *  motiondetection      /AlarmPicture/ImageList/<n>/Data
 *  personverification   /FaceInfoList/<n>/PanoImage/Data, …/FaceImage/Data, /CardInfoList/<n>/IDImage/Data
 *  every kind           a member named `Data` with a sibling `Size`, `Format`, `Name` or `Index`
 *
 *  A picture is a string of base64 (RFC 4648, padding optional) as bare text: no data URI. Firmwares spell `/` as `\/` and break lines; both
 *  are understood, as is any `\u` escape of a character of the alphabet. What does not decode, is too short, or lies under a very long path
 *  stays where it is, as do feature vectors, which are no pictures. Of members with the same name in one object only the last one counts.
 *  The text is walked once and never parsed: a byte costs the same in hostile text as in honest text, and at most 64 pictures are
 *  found. Pure. Storing them is not done here. */

import { decodeString, JSON_DEPTH, MemberNames, skipString } from './scan.ts';

/** Of one event; further ones stay in its data. */
export const MAX_PICTURES = 64;
const MAX_PATH_BYTES = 512;

export interface PictureSpan {
  /** JSON Pointer (RFC 6901) from `Data` on. */
  readonly path: string;
  /** Byte positions of the string with its quotes. */
  readonly start: number;
  readonly end: number;
  /** Length of what it decodes to. */
  readonly bytes: number;
}

const DATA = 0;
/** `Data` first; the others mark an object as a picture's. */
const NAMES = new MemberNames(['Data', 'Size', 'Format', 'Name', 'Index'], 'exact');

const KNOWN_PATHS: ReadonlyMap<string, RegExp> = new Map([
  ['structure', /^\/StructureInfo\/ImageInfoList\/\d+\/Data$/],
  ['motiondetection', /^\/AlarmPicture\/ImageList\/\d+\/Data$/],
  ['personverification', /^\/(?:FaceInfoList\/\d+\/(?:PanoImage|FaceImage)|CardInfoList\/\d+\/IDImage)\/Data$/],
]);

/** An object or array that the walk is inside of. */
class Container {
  isObject = false;
  /** Of the member or element that the walk is at. */
  nameStart = 0;
  nameEnd = 0;
  index = 0;
  isData = false;
  /** Has a sibling that only pictures have. */
  marked = false;
  /** The last long string named `Data`; end 0 = none. */
  dataStart = 0;
  dataEnd = 0;
}

/** Shared between walks, because a walk never yields. */
const containers: readonly Container[] = Array.from({ length: JSON_DEPTH + 1 }, () => new Container());

/** In text order. `kind` is that of the event; `data` is checked JSON; `thresholdBytes`: shorter base64 text is no picture. */
export function findPictures(kind: string, data: Buffer, thresholdBytes: number): PictureSpan[] {
  const found: PictureSpan[] = [];
  if (data.length < thresholdBytes || !mayName(data)) return found;
  const known = KNOWN_PATHS.get(kind);
  let depth = 0;
  let here = containers[0] as Container;
  here.isObject = false;
  let nameNext = false;
  let at = 0;
  while (at < data.length && found.length < MAX_PICTURES) {
    switch (data[at]) {
      case 0x22: {
        const end = skipString(data, at + 1);
        if (nameNext) {
          nameNext = false;
          const name = NAMES.indexOf(data, at + 1, end - 1);
          here.nameStart = at;
          here.nameEnd = end;
          here.isData = name === DATA;
          if (name === DATA) here.dataEnd = 0;
          else if (name > DATA) here.marked = true;
        } else if (here.isObject && here.isData && end - at - 2 >= thresholdBytes) {
          here.dataStart = at;
          here.dataEnd = end;
        }
        at = end;
        continue;
      }
      case 0x7b:
      case 0x5b:
        here = containers[++depth] as Container;
        here.isObject = data[at] === 0x7b;
        here.index = 0;
        here.isData = false;
        here.marked = false;
        here.dataEnd = 0;
        nameNext = here.isObject;
        break;
      case 0x7d:
      case 0x5d: {
        if (here.dataEnd > 0) {
          const picture = pictureAt(data, depth, here, known);
          if (picture !== undefined) found.push(picture);
        }
        here = containers[--depth] as Container;
        nameNext = false;
        break;
      }
      case 0x2c:
        if (here.isObject) nameNext = true;
        else here.index++;
        break;
    }
    at++;
  }
  // An object ends after the objects inside it.
  return found.sort((a, b) => a.start - b.start);
}

/** Is there a member `Data` at all? Its letters can be escaped as `\u0044` only. Neither search begins with a byte that JSON is full of, because that
 *  would make it slow. */
function mayName(data: Buffer): boolean {
  return data.includes('Data"') || data.includes('u00');
}

function pictureAt(data: Buffer, depth: number, owner: Container, known: RegExp | undefined): PictureSpan | undefined {
  if (!owner.marked && known === undefined) return undefined;
  const path = pathTo(data, depth);
  if (path === undefined || !(owner.marked || known?.test(path) === true)) return undefined;
  const { dataStart: start, dataEnd: end } = owner;
  const bytes = decodedLength(data, start + 1, end - 1);
  return bytes === undefined ? undefined : { path, start, end, bytes };
}

/** Of the member `Data` of the innermost container. */
function pathTo(data: Buffer, depth: number): string | undefined {
  let pathBytes = 0;
  for (let i = 1; i < depth; i++) {
    const { isObject, nameStart, nameEnd } = containers[i] as Container;
    if (isObject) pathBytes += nameEnd - nameStart;
  }
  if (pathBytes > MAX_PATH_BYTES) return undefined;
  let path = '';
  for (let i = 1; i < depth; i++) {
    const { isObject, nameStart, nameEnd, index } = containers[i] as Container;
    const step = isObject ? decodeString(data, nameStart, nameEnd) : String(index);
    path += `/${step.replaceAll('~', '~0').replaceAll('/', '~1')}`;
  }
  return `${path}/Data`;
}

const DIGIT = 1;
const PAD = 2;
const BREAK = 3;
/** What a character of the text is; 0 = not base64. */
const CLASSES = new Uint8Array(256);
for (const digit of Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'))
  CLASSES[digit] = DIGIT;
CLASSES[0x3d] = PAD;
CLASSES[0x0a] = BREAK;
CLASSES[0x0d] = BREAK;

/** Of a digit of checked JSON: `0`–`9`, `A`–`F` or `a`–`f`. */
function hexDigit(byte: number): number {
  return byte <= 0x39 ? byte - 0x30 : (byte | 0x20) - 0x57;
}

/** How many bytes the base64 between two quotes stands for; undefined if it is no base64. */
function decodedLength(data: Buffer, start: number, end: number): number | undefined {
  let digits = 0;
  let pads = 0;
  for (let at = start; ; ) {
    // Nearly all of it is digits; the closing quote is none.
    const from = at;
    while (CLASSES[data[at] as number] === DIGIT) at++;
    if (at > from && pads > 0) return undefined;
    digits += at - from;
    if (at === end) break;
    let kind = CLASSES[data[at] as number];
    if (data[at] === 0x5c) {
      const letter = data[at + 1] as number;
      if (letter === 0x75) {
        const isByte = data[at + 2] === 0x30 && data[at + 3] === 0x30;
        kind = isByte ? CLASSES[16 * hexDigit(data[at + 4] as number) + hexDigit(data[at + 5] as number)] : 0;
        at += 4;
      } else kind = letter === 0x2f ? DIGIT : letter === 0x6e || letter === 0x72 ? BREAK : 0;
      at++;
    }
    at++;
    if (kind === DIGIT && pads === 0) digits++;
    else if (kind === PAD) pads++;
    else if (kind !== BREAK) return undefined;
  }
  const whole = pads === 0 ? digits % 4 !== 1 : pads <= 2 && (digits + pads) % 4 === 0;
  return whole ? Math.floor((digits * 3) / 4) : undefined;
}

/** The bytes of a picture, in memory of their own. */
export function decodePicture(data: Buffer, { start, end, bytes }: PictureSpan): Buffer {
  const inner = data.subarray(start + 1, end - 1);
  const text = inner.includes(0x5c) ? decodeString(data, start, end) : inner.toString('latin1');
  const picture = Buffer.allocUnsafeSlow(bytes);
  const written = picture.write(text, 'base64');
  if (written !== bytes) throw new Error(`base64 of ${bytes} bytes decoded to ${written}`);
  return picture;
}

export interface Replacement {
  readonly start: number;
  readonly end: number;
  /** ASCII. */
  readonly text: string;
}

/** A copy with parts replaced; all other bytes are as they were. `replacements` in text order, apart from each other. */
export function replaceParts(data: Buffer, replacements: readonly Replacement[]): Buffer {
  const growth = replacements.reduce((sum, { start, end, text }) => sum + text.length - (end - start), 0);
  const copy = Buffer.allocUnsafeSlow(data.length + growth);
  let from = 0;
  let to = 0;
  for (const { start, end, text } of replacements) {
    to += data.copy(copy, to, from, start);
    to += copy.write(text, to, 'latin1');
    from = end;
  }
  data.copy(copy, to, from);
  return copy;
}
