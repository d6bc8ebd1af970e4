/** Says what a picture is by its first bytes. A device's own word is never asked: it would decide what a browser does with the bytes. Pure. */

/** So many bytes are enough to tell. */
export const SIGNATURE_BYTES = 16;

export function contentTypeOf(bytes: Uint8Array): string {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, SIGNATURE_BYTES)).toString(
    'latin1',
  );
  if (head.startsWith('\xff\xd8\xff')) return 'image/jpeg';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'image/png';
  if (/^GIF8[79]a/.test(head)) return 'image/gif';
  if (/^RIFF.{4}WEBP/s.test(head)) return 'image/webp';
  // Two letters alone would be met by chance; four reserved bytes of zero follow the size.
  if (/^BM.{4}\0{4}/s.test(head)) return 'image/bmp';
  return 'application/octet-stream';
}
