import { describe, expect, it } from 'vitest';
import { decodeJobBody, orderOf, type ReadOrder } from './job-body.ts';
import { JobRequest } from './job-schema.ts';

const MINIMAL = { command: { method: 'PUT', url: '/LAPI/V1.0/System/Time' }, targets: { codes: ['A'] } };

function read(text: string): ReadOrder {
  const bytes = Buffer.from(text);
  const decoded = decodeJobBody(bytes);
  if (decoded.status === 'bad') throw new Error(decoded.fault.problem);
  return orderOf(JobRequest.parse(decoded.value), bytes, { keyId: 'k1', idempotencyKey: 'api:x' });
}

function order(body: object) {
  const result = read(JSON.stringify(body));
  if (result.status === 'bad') throw new Error(result.error);
  return result.order;
}

describe('the body of a job', () => {
  it('data reaches the order byte by byte, however it is written', () => {
    const result = read(
      '{"targets":{"codes":["A"]},"command":{"url":"/LAPI/x","data" : {"n":12345678901234567890, "s":"\\u0041"},"method":"PUT"}}',
    );
    expect(result.status === 'read' && Buffer.from(result.order.data).toString()).toBe(
      '{"n":12345678901234567890, "s":"\\u0041"}',
    );
    expect(order(MINIMAL).data).toHaveLength(0);
    expect(order({ ...MINIMAL, command: { ...MINIMAL.command, data: null } }).data).toHaveLength(0);
  });

  it('a member named data elsewhere is not the data of the command', () => {
    const body = { ...MINIMAL, command: { ...MINIMAL.command, data: { command: { data: 1 } } } };
    expect(Buffer.from(order(body).data).toString()).toBe('{"command":{"data":1}}');
  });

  it('what is not said has its default', () => {
    expect(order(MINIMAL)).toMatchObject({
      command: { lane: 'normal', timeoutMs: 10_000, maxAttempts: 1, repeatable: false },
      pace: { concurrency: 50, offline: 'wait' },
      expires: { afterMs: 86_400_000 },
      targets: { kind: 'codes', codes: ['A'] },
      keyId: 'k1',
      idempotency: { key: 'api:x', request: expect.stringMatching(/^[0-9a-f]{64}$/) as string },
    });
    expect(order({ ...MINIMAL, command: { method: 'GET', url: '/LAPI/x' } }).command).toMatchObject({
      maxAttempts: 3,
      repeatable: true,
    });
    expect(order({ ...MINIMAL, command: { method: 'GET', url: '/LAPI/x', retrySafe: false } }).command).toMatchObject({
      maxAttempts: 1,
      repeatable: false,
    });
  });

  it('what may not be repeated is asked for once, and large data is refused', () => {
    const command = { ...MINIMAL.command, maxAttempts: 2 };
    expect(read(JSON.stringify({ ...MINIMAL, command }))).toMatchObject({ error: 'not_repeatable' });
    expect(order({ ...MINIMAL, command: { ...command, retrySafe: true } }).command.maxAttempts).toBe(2);
    const data = 'x'.repeat(256 * 1024);
    expect(read(JSON.stringify({ ...MINIMAL, command: { ...MINIMAL.command, data } }))).toMatchObject({
      error: 'request_too_large',
    });
  });

  it('windows end after they begin', () => {
    const window = { notBefore: '2030-01-01T00:00:00Z', notAfter: '2030-01-01T00:00:00+01:00' };
    expect(read(JSON.stringify({ ...MINIMAL, window }))).toMatchObject({ fault: { path: 'body.window.notAfter' } });
  });

  it.each([
    ['an unknown member', { ...MINIMAL, extra: 1 }],
    ['no targets', { ...MINIMAL, targets: {} }],
    ['both kinds of targets', { ...MINIMAL, targets: { codes: ['A'], filter: { tag: 't' } } }],
    ['an empty filter', { ...MINIMAL, targets: { filter: {} } }],
    ['a code twice', { ...MINIMAL, targets: { codes: ['A', 'B', 'A'] } }],
    ['too many codes', { ...MINIMAL, targets: { codes: Array.from({ length: 10_001 }, (_, i) => `C${i}`) } }],
    ['an abort rule without a rule', { ...MINIMAL, abort: {} }],
    ['two time limits', { ...MINIMAL, ttlMs: 1_000, expiresAt: '2030-01-01T00:00:00Z' }],
    ['no concurrency', { ...MINIMAL, concurrency: 0 }],
  ])('%s is refused', (_, body) => {
    expect(JobRequest.safeParse(body).success).toBe(false);
  });
});
