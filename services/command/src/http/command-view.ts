/** What platforms see of a recorded command. The device's answer goes in as the bytes that it wrote (protocol E18). Pure. */

import type { CommandRecord } from '@lapi-broker/lane';

/** Without the device's answer. */
export function commandView(record: CommandRecord): Record<string, unknown> {
  return {
    id: record.id,
    code: record.code,
    mode: record.mode,
    lane: record.lane,
    method: record.method,
    url: record.url,
    state: record.state,
    executed: record.executed,
    reason: record.reason === '' ? undefined : record.reason,
    late: record.late ? true : undefined,
    attempts: record.attempts,
    maxAttempts: record.maxAttempts,
    acceptedAt: timeOf(record.acceptedAtMs),
    expiresAt: timeOf(record.expiresAtMs),
    notBefore: timeOf(record.notBeforeMs),
    sentAt: timeOf(record.sentAtMs),
    endedAt: timeOf(record.endedAtMs),
    responseCode: record.responseCode,
    responseBytes: record.responseBytes,
    coalesceKey: record.coalesceKey,
    job: record.job,
    retryOf: record.retryOf,
  };
}

/** JSON text, with the device's answer where it is kept. */
export function commandBytes(record: CommandRecord): Buffer {
  return withResponse(commandView(record), record.response);
}

/** `head` as JSON text with `"response":<bytes>` as its last member. */
export function withResponse(head: Record<string, unknown>, response: Uint8Array | undefined): Buffer {
  const json = JSON.stringify(head);
  if (response === undefined) return Buffer.from(json);
  return Buffer.concat([Buffer.from(`${json.slice(0, -1)},"response":`), response, Buffer.from('}')]);
}

function timeOf(ms: number | undefined): string | undefined {
  return ms === undefined ? undefined : new Date(ms).toISOString();
}
