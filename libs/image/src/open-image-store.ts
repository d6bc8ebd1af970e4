/** The settings of the image store, the same for all services, and what they open. */

import { z } from 'zod';
import { DirectoryImageStore } from './directory/directory-image-store.ts';
import type { ImageStore } from './image-store.ts';
import { S3ImageStore } from './s3/s3-image-store.ts';

type Place =
  | { readonly type: 'directory'; readonly path: string }
  | { readonly type: 's3'; readonly bucket: string; readonly prefix: string };

const S3_PLACE = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:\/(?!\.\.?(?:\/|$))[A-Za-z0-9._-]+)*)\/?$/;

function readPlace(text: string): Place | undefined {
  if (/^file:./.test(text)) return { type: 'directory', path: text.slice('file:'.length).replace(/^\/\/(?=\/)/, '') };
  const s3 = S3_PLACE.exec(text);
  return s3 === null ? undefined : { type: 's3', bucket: s3[1] as string, prefix: (s3[2] as string).slice(1) };
}

function isOrigin(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && url.href === `${url.origin}/`;
}

export const IMAGE_STORE_VARIABLES = {
  LAPI_IMAGE_STORE: z
    .string()
    .refine((text) => readPlace(text) !== undefined, 'must be file:DIRECTORY or s3://BUCKET/PREFIX')
    .default('file:images')
    .describe(
      'Where pictures of events are kept, the same on all processes: file:/DIRECTORY, which all machines must see, or s3://BUCKET/PREFIX.',
    ),
  LAPI_IMAGE_S3_ENDPOINT: z
    .url({ protocol: /^https?$/ })
    .refine(isOrigin, 'must be http(s)://host[:port] without a path or credentials')
    .optional()
    .describe('Where the S3-compatible store is, as http(s)://host[:port]; AWS in the region when not set.'),
  LAPI_IMAGE_S3_REGION: z.string().default('us-east-1').describe('Region for which requests to S3 are signed.'),
  LAPI_IMAGE_S3_STYLE: z
    .enum(['path', 'host'])
    .default('path')
    .describe('Where the name of the bucket goes: into the path, or before the name of the host.'),
  LAPI_IMAGE_S3_ACCESS_KEY: z.string().optional().describe('Access key of the S3-compatible store.'),
  LAPI_IMAGE_S3_SECRET_KEY: z.string().optional().describe('Its secret.').meta({ secret: true }),
};

type ImageStoreSettings = Readonly<z.output<z.ZodObject<typeof IMAGE_STORE_VARIABLES>>>;

export const S3_CREDENTIALS_FAULT = {
  path: ['LAPI_IMAGE_S3_ACCESS_KEY'],
  message: 'required with LAPI_IMAGE_S3_SECRET_KEY, because LAPI_IMAGE_STORE is in S3',
};

export function hasS3Credentials(settings: ImageStoreSettings): boolean {
  const { LAPI_IMAGE_STORE, LAPI_IMAGE_S3_ACCESS_KEY, LAPI_IMAGE_S3_SECRET_KEY } = settings;
  if (!LAPI_IMAGE_STORE.startsWith('s3:')) return true;
  return LAPI_IMAGE_S3_ACCESS_KEY !== undefined && LAPI_IMAGE_S3_SECRET_KEY !== undefined;
}

/** Opens nothing yet: a store that is away shows at its first use, because events go on without it. */
export function openImageStore(settings: ImageStoreSettings): ImageStore {
  const place = readPlace(settings.LAPI_IMAGE_STORE);
  if (place === undefined) throw new TypeError('LAPI_IMAGE_STORE was not checked');
  if (place.type === 'directory') return new DirectoryImageStore(place.path);
  const { LAPI_IMAGE_S3_REGION: region } = settings;
  return new S3ImageStore({
    bucket: place.bucket,
    prefix: place.prefix,
    endpoint: new URL(settings.LAPI_IMAGE_S3_ENDPOINT ?? `https://s3.${region}.amazonaws.com`),
    region,
    style: settings.LAPI_IMAGE_S3_STYLE,
    accessKey: settings.LAPI_IMAGE_S3_ACCESS_KEY ?? '',
    secretKey: settings.LAPI_IMAGE_S3_SECRET_KEY ?? '',
  });
}
