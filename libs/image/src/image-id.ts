/** The name of a picture: the hour (UTC) in which it came, and the hash of its bytes. So one that comes twice in an hour is one object, a
 *  name cannot be guessed, its bytes can be checked against it, and what is old is found without a list. Pure. */

import { hash } from 'node:crypto';

declare const brand: unique symbol;
/** `<yyyymmddhh>-<sha256, 64 hex digits>`. */
export type ImageId = string & { readonly [brand]: 'ImageId' };

const IMAGE_ID = /^\d{10}-[0-9a-f]{64}$/;
const HOUR = /^\d{10}$/;

/** Nothing that passes can lead out of a directory. */
export function isImageId(text: string): text is ImageId {
  return IMAGE_ID.test(text);
}

export function imageIdOf(bytes: Uint8Array, nowMs: number): ImageId {
  return `${hourOf(nowMs)}-${hash('sha256', bytes, 'hex')}` as ImageId;
}

export function sha256Of(id: ImageId): string {
  return id.slice(11);
}

/** `yyyymmddhh` of the UTC hour; sorts as time. */
export function hourOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 13).replace(/\D/g, '');
}

/** Where the picture lies below the root of a store: the hour, two digits of the hash so that no folder gets too full, the hash. */
export function placeOf(id: ImageId): { readonly hour: string; readonly part: string; readonly name: string } {
  if (!isImageId(id)) throw new TypeError('not the id of an image');
  const name = sha256Of(id);
  return { hour: id.slice(0, 10), part: name.slice(0, 2), name };
}

export function isHour(text: string): boolean {
  return HOUR.test(text);
}
