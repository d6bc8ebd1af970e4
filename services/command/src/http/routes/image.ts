/** Hands out pictures that were taken out of events. The bytes are a device's, so a browser is told to treat them as a picture or not at
 *  all: the type comes from the bytes, nothing in them may run, and nobody else may keep them. */

import { isImageId, sha256Of } from '@lapi-broker/image';
import { z } from 'zod';
import type { Answer } from '../answer.ts';
import { namesVersion, rangeOf } from '../byte-range.ts';
import { operation, problem } from '../operation.ts';

/** A picture never changes, so only its retention limits how long a copy is of use. */
const CACHE_S = 86_400;
const OPEN_MS = 5_000;

const ImagePath = z.object({
  id: z.string().max(128).describe('As in the `url` of an image of an event.'),
});
const ImageHeaders = z.object({
  Range: z.string().optional().describe('One range of bytes, as `bytes=0-1023`.'),
  'If-Range': z.string().optional().describe('The range is meant for this ETag only.'),
  'If-None-Match': z.string().optional().describe('An ETag that the caller has; 304 if it is this one.'),
});

const absent = (): Answer => problem('not_found', 'there is no such image, or its time is over');

export const readImage = operation({
  id: 'readImage',
  tag: 'Events',
  summary: 'Read a picture of an event',
  description:
    'Pictures are kept for some hours (LAPI_IMAGE_RETENTION_HOURS). The ETag is the SHA-256 of the picture. The answer is sent in chunks, without a Content-Length.',
  scope: 'read',
  params: ImagePath,
  headers: ImageHeaders,
  responses: {
    200: { description: 'The picture.', contentType: 'image/*' },
    206: { description: 'The part that was asked for.', contentType: 'image/*' },
    304: { description: 'The caller has it.' },
  },
  errors: ['not_found', 'range_not_satisfiable'],
  async handle({ params: { id }, exchange }, broker) {
    if (!isImageId(id)) return absent();
    const image = await broker.images.open(id, AbortSignal.timeout(OPEN_MS));
    if (image === 'absent') return absent();
    const { totalBytes, contentType } = image;
    const { request } = exchange;
    const etag = `"${sha256Of(id)}"`;
    const common = [
      ['ETag', etag],
      ['Cache-Control', `private, max-age=${CACHE_S}, immutable`],
    ] as const;
    if (namesVersion(request.header('if-none-match'), etag)) {
      await image.close();
      return { kind: 'bytes', status: 304, contentType: '', bytes: '', headers: common };
    }
    const ifRange = request.header('if-range');
    const range =
      ifRange === '' || ifRange === etag ? rangeOf(request.header('range'), totalBytes) : { status: 'all' as const };
    if (range.status === 'unsatisfiable') {
      await image.close();
      return {
        kind: 'problem',
        error: 'range_not_satisfiable',
        detail: `the image has ${totalBytes} bytes`,
        headers: [['Content-Range', `bytes */${totalBytes}`]],
      };
    }
    const [first, last] = range.status === 'part' ? [range.first, range.last] : [0, totalBytes - 1];
    return {
      kind: 'stream',
      status: range.status === 'part' ? 206 : 200,
      contentType,
      pieces: image.read(first, last),
      close: () => image.close(),
      headers: [
        ...common,
        ['Accept-Ranges', 'bytes'],
        ...(range.status === 'part' ? [['Content-Range', `bytes ${first}-${last}/${totalBytes}`] as const] : []),
        ['Content-Disposition', 'inline'],
        ['X-Content-Type-Options', 'nosniff'],
        ['Content-Security-Policy', "default-src 'none'; sandbox"],
      ],
    };
  },
});
