/** Gives a stream one piece after the other, the next one when the peer has taken the last. Ends early when the peer leaves; then nobody
 *  asks for further pieces. Rejects when the source fails; the stream is open then. */

import type { StreamHandle } from '@lapi-broker/http';

export async function sendPieces(
  stream: Pick<StreamHandle, 'ended' | 'write' | 'onDrain' | 'onClosed' | 'end'>,
  pieces: AsyncIterable<Uint8Array>,
): Promise<void> {
  let goOn = (): void => undefined;
  stream.onDrain(() => goOn());
  stream.onClosed(() => goOn());
  for await (const piece of pieces) {
    if (stream.ended) return;
    if (stream.write(piece)) continue;
    await new Promise<void>((resolve) => {
      goOn = resolve;
      if (stream.ended) resolve();
    });
  }
  stream.end();
}
