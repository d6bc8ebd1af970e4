/** Server-sent events as text: one frame per call, ready for a stream of `text/event-stream`.
 *  A line break inside `data` becomes another `data:` line, so the reader gets the text back unchanged except that CR and CRLF arrive
 *  as LF; a line break inside any other field would forge fields, so it is refused. */

export interface SseEvent {
  /** The reader sends the last one back as `Last-Event-ID`. */
  readonly id?: string;
  readonly event?: string;
  readonly data: string;
  /** The reader waits this long before it connects again. */
  readonly retryMs?: number;
}

const LINE_BREAK = /\r\n|\r|\n/;
const BREAKS_FIELD = /[\r\n\0]/;

export function encodeSseEvent({ id, event, data, retryMs }: SseEvent): string {
  let frame = '';
  if (id !== undefined) frame += `id: ${oneLine(id)}\n`;
  if (event !== undefined) frame += `event: ${oneLine(event)}\n`;
  if (retryMs !== undefined) frame += `retry: ${Math.max(0, Math.round(retryMs))}\n`;
  const lines = data.includes('\n') || data.includes('\r') ? data.split(LINE_BREAK) : [data];
  for (const line of lines) frame += `data: ${line}\n`;
  return `${frame}\n`;
}

/** Ignored by readers; keeps proxies from closing a silent stream. */
export function encodeSseComment(text = ''): string {
  return `: ${oneLine(text)}\n\n`;
}

function oneLine(text: string): string {
  if (BREAKS_FIELD.test(text)) throw new TypeError('an event field must not contain a line break');
  return text;
}
