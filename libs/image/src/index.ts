/** Where pictures of devices are kept, outside of Redis: a directory or an S3-compatible store. Only home of the S3 client. */

export { contentTypeOf } from './content-type.ts';
export { hourOf, type ImageId, imageIdOf, isImageId, sha256Of } from './image-id.ts';
export type { ImageStore, OpenImage } from './image-store.ts';
export { hasS3Credentials, IMAGE_STORE_VARIABLES, openImageStore, S3_CREDENTIALS_FAULT } from './open-image-store.ts';
