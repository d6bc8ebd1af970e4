/** Translates the transport's words for a dropped WebSocket into reasons of the protocol (E3, E5, E6). The texts are those of the
 *  pinned release; its tests fail when a new release says it differently. */

export type DropCause = 'too_big' | 'bad_utf8' | 'bad_frame' | 'peer_gone';

const CAUSES: ReadonlyMap<string, DropCause> = new Map([
  ['Received too big message', 'too_big'],
  ['Received invalid UTF-8', 'bad_utf8'],
  ['Received invalid WebSocket frame', 'bad_frame'],
  ['Received invalid close payload', 'bad_frame'],
]);

/** Undefined when the connection ended with a close frame, of either side. `peer_gone`: FIN or reset without a close frame, or dropped
 *  by our own `close()`. */
export function dropCauseOf(code: number, reason: string): DropCause | undefined {
  return code === 1006 ? (CAUSES.get(reason) ?? 'peer_gone') : undefined;
}
