/** Makes what a platform asks for complete: every duration becomes a time of the store, every key a hash. Pure. */

import { createHash } from 'node:crypto';
import type { CommandMode, CommandRecord, LaneName, NewCommand } from '@lapi-broker/lane';
import type { CommandId, DeviceCode, InstanceId, LapiMethod } from '@lapi-broker/protocol';

/** Validated, with all defaults filled in. */
export interface QueuedRequest {
  readonly code: DeviceCode;
  readonly method: LapiMethod;
  /** RequestURL; the path policy has judged it. */
  readonly url: string;
  /** JSON text of `Data`, at most LIMITS.keptBodyBytes; empty = `{}`. */
  readonly body: Uint8Array;
  readonly lane: LaneName;
  /** How long the device may take to answer one attempt. */
  readonly timeoutMs: number;
  /** A span from now, or a time of day, ms since the epoch. */
  readonly expires: { readonly afterMs: number } | { readonly atMs: number };
  /** Time of day, ms since the epoch. */
  readonly notBeforeMs?: number | undefined;
  /** Above 1 only for GET or what is declared repeatable (I7). */
  readonly maxAttempts: number;
  readonly backoffMs: number;
  readonly coalesceKey?: string | undefined;
  /** Per device; begins with who chose it: `api:`, `job:`, `schedule:`. */
  readonly idempotencyKey?: string | undefined;
  /** Id of the API key that asked, or on whose behalf. */
  readonly keyId: string;
  readonly job?: string | undefined;
  readonly retryOf?: CommandId | undefined;
  /** Should this process be told of the end? For `whenEnded` and `onEnded`. */
  readonly awaited: boolean;
  /** In the shard of the device; for callers whose ids follow from what they do, so that doing it again is the same command. Else random. */
  readonly id?: CommandId | undefined;
  /** Not accepted later than this, Redis time; for callers whose right to ask ends. */
  readonly notAfterMs?: number | undefined;
}

/** How the asking process itself is at it first. */
export interface DirectPart {
  readonly mode: 'direct' | 'direct-then-queue';
  /** For so long at most; then the record does not wait for its word any more. */
  readonly withinMs: number;
}

export interface Minted {
  readonly id: CommandId;
  /** Redis time. */
  readonly nowMs: number;
  readonly replyTo: InstanceId;
}

export function completeCommand(
  request: QueuedRequest,
  direct: DirectPart | undefined,
  { id, nowMs, replyTo }: Minted,
): NewCommand {
  const { expires, awaited, idempotencyKey, notAfterMs: _, ...asked } = request;
  const mode = direct?.mode ?? 'queue';
  return {
    ...asked,
    id,
    mode,
    expiresAtMs: 'atMs' in expires ? expires.atMs : Math.floor(nowMs + expires.afterMs),
    directUntilMs: direct === undefined ? undefined : Math.ceil(nowMs + direct.withinMs),
    notBeforeMs: request.notBeforeMs,
    coalesceKey: request.coalesceKey,
    idempotency:
      idempotencyKey === undefined ? undefined : { key: sha256(idempotencyKey), request: hashOf(request, mode) },
    job: request.job,
    retryOf: request.retryOf,
    replyTo: awaited ? replyTo : undefined,
  };
}

/** What its record is at the moment when the store has accepted it, so that nobody needs to read it for that. */
export function recordOf(command: NewCommand, state: 'queued' | 'sent', nowMs: number): CommandRecord {
  const isSent = state === 'sent';
  return {
    id: command.id,
    code: command.code,
    mode: command.mode,
    lane: command.lane,
    method: command.method,
    url: command.url,
    state,
    executed: undefined,
    reason: '',
    late: false,
    attempts: isSent ? 1 : 0,
    maxAttempts: command.maxAttempts,
    timeoutMs: command.timeoutMs,
    backoffMs: command.backoffMs,
    acceptedAtMs: Math.floor(nowMs),
    expiresAtMs: command.expiresAtMs,
    notBeforeMs: command.notBeforeMs,
    sentAtMs: isSent ? Math.floor(nowMs) : undefined,
    epoch: undefined,
    endedAtMs: undefined,
    responseCode: undefined,
    response: undefined,
    responseBytes: 0,
    coalesceKey: command.coalesceKey,
    keyId: command.keyId,
    job: command.job,
    retryOf: command.retryOf,
  };
}

/** What makes two requests the same command. How long somebody waits for the answer, and who asks, is no part of it. */
function hashOf(request: QueuedRequest, mode: CommandMode): string {
  const { method, url, body, lane, timeoutMs, expires, notBeforeMs, maxAttempts, backoffMs, coalesceKey, retryOf } =
    request;
  const head = [mode, method, url, lane, timeoutMs, expires, notBeforeMs, maxAttempts, backoffMs, coalesceKey, retryOf];
  return createHash('sha256').update(JSON.stringify(head)).update('\n').update(body).digest('hex');
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
