import { ERRORS, type ErrorCode } from '@lapi-broker/protocol';
import { describe, expect, it } from 'vitest';
import { createProblem } from './problem.ts';

const about = { detail: 'because', requestId: 'r-1', method: 'GET' };
const parse = (code: ErrorCode, more: Partial<Parameters<typeof createProblem>[1]> = {}): Record<string, unknown> =>
  JSON.parse(createProblem(code, { ...about, ...more }).body);

describe('problem documents', () => {
  it.each(Object.keys(ERRORS) as ErrorCode[])(
    '%s has a status, a title, a cause and a remedy, and both names of its code',
    (code) => {
      const { status, headers } = createProblem(code, about);
      expect(status).toBe(ERRORS[code].status);
      expect(headers).toContainEqual(['Content-Type', 'application/problem+json']);
      expect(parse(code)).toMatchObject({
        type: `urn:lapi-broker:error:${code}`,
        status,
        code,
        error: code,
        source: 'broker',
        detail: 'because',
        requestId: 'r-1',
        written: false,
      });
      for (const member of ['title', 'cause', 'remedy']) expect(parse(code)[member]).toMatch(/\w/);
    },
  );

  it('a timeout is retryable for GET alone, because the device may have acted (13.3)', () => {
    expect(parse('timeout', { method: 'GET' }).retryable).toBe(true);
    expect(parse('timeout', { method: 'PUT' }).retryable).toBe(false);
    expect(parse('device_offline', { method: 'PUT' }).retryable).toBe(true);
  });

  it('what was written may have been executed; what was not, was not', () => {
    expect(parse('timeout', { command: { written: true } })).toMatchObject({ written: true, executed: 'maybe' });
    expect(parse('device_offline', { command: { written: false } })).toMatchObject({ written: false, executed: 'no' });
    expect(parse('invalid_request')).not.toHaveProperty('executed');
  });

  it('Retry-After is there where it makes sense, in whole seconds, at least one', () => {
    const retryAfter = (code: ErrorCode, ms?: number): string | undefined =>
      createProblem(code, { ...about, ...(ms === undefined ? {} : { retryAfterMs: ms }) }).headers.find(
        ([name]) => name === 'Retry-After',
      )?.[1];
    expect(retryAfter('device_offline')).toBe('5');
    expect(retryAfter('rate_limited', 20)).toBe('1');
    expect(retryAfter('rate_limited', 2100)).toBe('3');
    expect(retryAfter('invalid_request')).toBeUndefined();
  });
});
