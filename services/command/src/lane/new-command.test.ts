import type { CommandId, DeviceCode, InstanceId } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { completeCommand, type DirectPart, type QueuedRequest } from './new-command.ts';

const MINTED = { id: '00aaaaaaaaaaaaaaaaaaaa' as CommandId, nowMs: 1_000_000.5, replyTo: 'c1' as InstanceId };
const REQUEST: QueuedRequest = {
  code: 'CAM' as DeviceCode,
  method: 'PUT',
  url: '/LAPI/V1.0/X',
  body: Buffer.from('{"a":1}'),
  lane: 'normal',
  timeoutMs: 10_000,
  expires: { afterMs: 60_000 },
  maxAttempts: 1,
  backoffMs: 1_000,
  idempotencyKey: 'api:k',
  keyId: 'key-1',
  awaited: false,
};

const hashOf = (change: Partial<QueuedRequest> = {}, direct?: DirectPart): string | undefined =>
  completeCommand({ ...REQUEST, ...change }, direct, MINTED).idempotency?.request;

it('spans become times of the store, and times of day stay what they are', () => {
  expect(completeCommand(REQUEST, undefined, MINTED).expiresAtMs).toBe(1_060_000);
  expect(completeCommand({ ...REQUEST, expires: { atMs: 5 } }, undefined, MINTED).expiresAtMs).toBe(5);
  const direct = { mode: 'direct', withinMs: 12_000 } as const;
  expect(completeCommand(REQUEST, direct, MINTED)).toMatchObject({ mode: 'direct', directUntilMs: 1_012_001 });
  expect(completeCommand(REQUEST, undefined, MINTED).directUntilMs).toBeUndefined();
});

it('only who wants to hear of the end is named', () => {
  expect(completeCommand(REQUEST, undefined, MINTED).replyTo).toBeUndefined();
  expect(completeCommand({ ...REQUEST, awaited: true }, undefined, MINTED).replyTo).toBe('c1');
});

it.each<[string, Partial<QueuedRequest>]>([
  ['method', { method: 'POST' }],
  ['url', { url: '/LAPI/V1.0/Y' }],
  ['body', { body: Buffer.from('{"a":2}') }],
  ['no body', { body: Buffer.alloc(0) }],
  ['lane', { lane: 'urgent' }],
  ['timeout', { timeoutMs: 10_001 }],
  ['span', { expires: { afterMs: 60_001 } }],
  ['time instead of the span', { expires: { atMs: 60_000 } }],
  ['begin', { notBeforeMs: 1 }],
  ['attempts', { maxAttempts: 2 }],
  ['backoff', { backoffMs: 1_001 }],
  ['coalesceKey', { coalesceKey: 'c' }],
  ['origin', { retryOf: MINTED.id }],
])('another %s is another request under the same key', (_what, change) => {
  expect(hashOf(change)).not.toBe(hashOf());
});

it('another mode is another request; who asks, when, and whether somebody waits is not', () => {
  expect(hashOf({}, { mode: 'direct', withinMs: 1 })).not.toBe(hashOf());
  expect(hashOf({ keyId: 'key-2', awaited: true })).toBe(hashOf());
  expect(hashOf({}, { mode: 'direct', withinMs: 1 })).toBe(hashOf({}, { mode: 'direct', withinMs: 2 }));
});

it('no text of url and body can be moved from one into the other', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.string(), (a, b, c) => {
      fc.pre(b !== '');
      expect(hashOf({ url: a + b, body: Buffer.from(c) })).not.toBe(hashOf({ url: a, body: Buffer.from(b + c) }));
    }),
  );
});
