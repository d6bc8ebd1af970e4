import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { encodeSseComment, encodeSseEvent } from './sse.ts';

/** What the HTML standard tells a reader to do with one frame. */
function read(frame: string): Record<string, string> {
  const fields: Record<string, string> = {};
  for (const line of frame.split('\n').slice(0, -2)) {
    const colon = line.indexOf(':');
    const name = line.slice(0, colon);
    const value = line.slice(colon + 1).replace(/^ /, '');
    fields[name] = name === 'data' && fields[name] !== undefined ? `${fields[name]}\n${value}` : value;
  }
  return fields;
}

describe('server-sent events', () => {
  test('all fields', () => {
    expect(encodeSseEvent({ id: '7', event: 'alarm', data: 'a\nb', retryMs: 1500 })).toBe(
      'id: 7\nevent: alarm\nretry: 1500\ndata: a\ndata: b\n\n',
    );
  });

  test('only data; empty data is still an event', () => {
    expect(encodeSseEvent({ data: '' })).toBe('data: \n\n');
  });

  test('a comment', () => {
    expect(encodeSseComment('keepalive')).toBe(': keepalive\n\n');
  });

  test('any text comes back unchanged, line breaks as LF', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', ' ', ':', '\n', '\r', 'é', '"') }), (data) => {
        const frame = encodeSseEvent({ id: '1', data });
        expect(read(frame)).toEqual({ id: '1', data: data.replace(/\r\n?/g, '\n') });
      }),
    );
  });

  test.each(['a\nb', 'a\rdata: forged', 'a\0'])('a field that would forge another is refused', (text) => {
    expect(() => encodeSseEvent({ id: text, data: '' })).toThrow(TypeError);
    expect(() => encodeSseEvent({ event: text, data: '' })).toThrow(TypeError);
    expect(() => encodeSseComment(text)).toThrow(TypeError);
  });
});
