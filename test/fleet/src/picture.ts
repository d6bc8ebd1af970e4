/** Two tiny valid JPEGs and a way to make them as large as a camera's. Padding sits in JPEG comment segments, so every size decodes. */

export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly jpegBytes: number;
  /** Bare base64, no data-URI (protocol 11.4). */
  readonly base64: string;
}

/** What one structure event shows: the whole view and the object cut out of it. */
export interface PicturePair {
  readonly panorama: Picture;
  readonly object: Picture;
}

/** A wall with two dark posts, 80 × 48, grey. */
const PANORAMA =
  '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAj/wAAL' +
  'CAAwAFABAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQAAPwD0g444444445z5xz5pD6cOO' +
  'OOc+cc+dw+jjnZuQOc+cc8FD6AOeguCOeKnnubDrTzzz2Ieeeeeeeee/9k=';

/** A figure, 24 × 32, grey. */
const OBJECT =
  '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAj/wAAL' +
  'CAAgABgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQAAPwDmXtzxEMFvN5wbvGC1GW//2Q==';

const MARKER_BYTES = 2;
const COMMENT_MAX_BYTES = 65_533;
const COMMENT_HEAD_BYTES = 4;

/** The panorama padded to at least `jpegBytes` (0 = as small as it is). One string per fleet, shared by all its devices. */
export function createPictures(jpegBytes: number): PicturePair {
  return { panorama: picture(PANORAMA, 80, 48, jpegBytes), object: picture(OBJECT, 24, 32, 0) };
}

function picture(base64: string, width: number, height: number, jpegBytes: number): Picture {
  const jpeg = padJpeg(Buffer.from(base64, 'base64'), jpegBytes);
  return { width, height, jpegBytes: jpeg.length, base64: jpeg.toString('base64') };
}

function padJpeg(jpeg: Buffer, wantedBytes: number): Buffer {
  const parts = [jpeg.subarray(0, MARKER_BYTES)];
  let missing = wantedBytes - jpeg.length;
  while (missing > 0) {
    const fill = Math.min(COMMENT_MAX_BYTES, Math.max(0, missing - COMMENT_HEAD_BYTES));
    const comment = Buffer.alloc(COMMENT_HEAD_BYTES + fill, 0x2e);
    comment.writeUInt16BE(0xfffe, 0);
    comment.writeUInt16BE(fill + 2, 2);
    parts.push(comment);
    missing -= comment.length;
  }
  return Buffer.concat([...parts, jpeg.subarray(MARKER_BYTES)]);
}
