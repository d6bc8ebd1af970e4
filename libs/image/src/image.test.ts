import { expect, test } from 'vitest';
import { contentTypeOf } from './content-type.ts';
import { hourOf, imageIdOf, isImageId, sha256Of } from './image-id.ts';
import { hasS3Credentials, IMAGE_STORE_VARIABLES } from './open-image-store.ts';

const REST = Buffer.alloc(5_000);

test('the first bytes say what a picture is, and nothing else does', () => {
  const kinds: readonly [string, string][] = [
    ['\xff\xd8\xff\xe0', 'image/jpeg'],
    ['\x89PNG\r\n\x1a\n', 'image/png'],
    ['GIF89a', 'image/gif'],
    ['GIF87a', 'image/gif'],
    ['BM\x01\x02\x03\x04\0\0\0\0', 'image/bmp'],
    ['RIFF\n\r\x01\x02WEBPVP8 ', 'image/webp'],
    ['<svg onload=alert(1)>', 'application/octet-stream'],
    ['<!doctype html>', 'application/octet-stream'],
    ['BMnothing', 'application/octet-stream'],
    ['RIFF\0\0\0\0WAVE', 'application/octet-stream'],
    ['', 'application/octet-stream'],
  ];
  for (const [head, type] of kinds)
    expect(contentTypeOf(Buffer.concat([Buffer.from(head, 'latin1'), REST])), head).toBe(type);
  expect(contentTypeOf(Buffer.from('ffd8', 'hex'))).toBe('application/octet-stream');
});

test('an id is the hour and the hash, and only that is an id', () => {
  const nowMs = Date.UTC(2026, 0, 2, 3, 59, 59, 999);
  const id = imageIdOf(Buffer.from('abc'), nowMs);
  expect(id).toBe('2026010203-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
  expect([isImageId(id), sha256Of(id), hourOf(nowMs + 1)]).toEqual([true, id.slice(11), '2026010204']);
  for (const other of ['', id.toUpperCase(), `${id}\n`, `/${id}`, id.slice(1), id.replace('-', '/')])
    expect(isImageId(other), other).toBe(false);
});

test('a place is a directory or a bucket; anything else is refused at the start', () => {
  const accepts = (place: string): boolean => IMAGE_STORE_VARIABLES.LAPI_IMAGE_STORE.safeParse(place).success;
  for (const place of ['file:/a/b', 'file:images', 'file:///a', 's3://bucket', 's3://a-b.c/d/e_f', 's3://bucket/'])
    expect(accepts(place), place).toBe(true);
  for (const place of [
    '',
    '/a',
    'file:',
    's3://',
    's3://Bucket',
    's3://b',
    's3://bucket/a b',
    's3://bucket/<a>',
    's3://bucket/..',
    's3://bucket/../other/pictures',
    'http://x',
  ])
    expect(accepts(place), place).toBe(false);
});

test('the endpoint is an origin: a path, a query or credentials would be ignored, so they are refused', () => {
  const accepts = (url: string): boolean => IMAGE_STORE_VARIABLES.LAPI_IMAGE_S3_ENDPOINT.safeParse(url).success;
  for (const url of ['https://s3.example.org', 'https://s3.example.org/', 'http://127.0.0.1:9000', 'http://[::1]:9000'])
    expect(accepts(url), url).toBe(true);
  for (const url of [
    'https://s3.example.org/v1',
    'https://u:p@s3.example.org',
    'https://s3.example.org?a',
    'ftp://x',
    'x',
  ])
    expect(accepts(url), url).toBe(false);
});

test('S3 needs its keys, a directory does not', () => {
  const settings = (place: string, keys: object) => ({
    LAPI_IMAGE_STORE: place,
    LAPI_IMAGE_S3_REGION: 'x',
    LAPI_IMAGE_S3_STYLE: 'path' as const,
    ...keys,
  });
  const both = { LAPI_IMAGE_S3_ACCESS_KEY: 'a', LAPI_IMAGE_S3_SECRET_KEY: 'b' };
  expect(hasS3Credentials(settings('file:x', {}))).toBe(true);
  expect(hasS3Credentials(settings('s3://bucket', both))).toBe(true);
  expect(hasS3Credentials(settings('s3://bucket', { LAPI_IMAGE_S3_ACCESS_KEY: 'a' }))).toBe(false);
});
