/** Answers "why is this camera offline?" in one sentence or three, for people: what the registry says now, how the last session ended, and why it
 *  was not let in since. Words of the API stand in brackets, so that a sentence can be looked up. Pure. */

import type { DeviceRow } from '@lapi-broker/device';
import type { OfflineReason } from '@lapi-broker/routing';
import type { DeviceTimeline, RefusalEntry, SessionEntry } from '@lapi-broker/timeline';

export interface Situation {
  /** Undefined: not provisioned. */
  readonly row: Pick<DeviceRow, 'owner' | 'lastOffline' | 'enabled' | 'address' | 'vendor' | 'hold'> | undefined;
  readonly online: boolean;
  readonly timeline: DeviceTimeline;
  /** Are timelines kept in this installation? If not, silence says nothing. */
  readonly kept: boolean;
}

export interface Explanation {
  readonly status: 'online' | 'offline' | 'not_provisioned';
  readonly sinceMs: number | undefined;
  /** Why it is offline, in one word: the reason of the last refusal, else of the end of its last session. */
  readonly reason: string | undefined;
  readonly text: string;
  /** What to do about it. */
  readonly remedy: string | undefined;
  /** The last registration that was refused, unless a session has begun or ended since. */
  readonly refusal: RefusalEntry | undefined;
}

interface Cause {
  readonly text: string;
  readonly remedy?: string;
}

const REACH = 'Look at its power and its network; ask whether other devices of its site are away too.';
const BY_ITSELF = 'It comes back to another node by itself, as a rule within a minute.';
const UNREADABLE = 'Look at its firmware; docs/operator/runbooks.md has more on sessions that end again and again.';

const ENDS: Record<OfflineReason, Cause> = {
  closed: { text: 'the device closed its connection, or it was lost on the way', remedy: REACH },
  unregistered: {
    text: 'the device said goodbye',
    remedy: 'Somebody may have switched the connection off in the device, or it was restarted.',
  },
  superseded: { text: 'the device registered again, and the new session replaced the old one' },
  liveness_timeout: {
    text: 'nothing came from the device for 2.5 times its keepalive interval, so it was taken for dead',
    remedy: REACH,
  },
  node_lost: { text: 'the node that held its connection died', remedy: BY_ITSELF },
  draining: { text: 'the node that held its connection was stopped or drained on purpose', remedy: BY_ITSELF },
  rebalanced: { text: 'its node had more devices than the others and let it go', remedy: BY_ITSELF },
  isolated: { text: 'its node alone had lost the store and let it go', remedy: BY_ITSELF },
  disconnected: { text: 'somebody ended its session over the API', remedy: BY_ITSELF },
  revoked: {
    text: 'its secret was taken away, or it was disabled or removed',
    remedy: 'Set the secret in the device that is provisioned here.',
  },
  quarantined: {
    text: 'its sessions ended for misbehaviour again and again, so it was kept away for a minute',
    remedy: UNREADABLE,
  },
  fenced: { text: 'its node was cut off from the store', remedy: BY_ITSELF },
  unconfirmed: { text: 'the store did not confirm its registration in time', remedy: BY_ITSELF },
  too_big: { text: 'it sent a message over 16 MiB', remedy: UNREADABLE },
  bad_utf8: { text: 'it sent text that is not UTF-8', remedy: UNREADABLE },
  bad_frame: { text: 'it sent a broken WebSocket frame', remedy: UNREADABLE },
  bad_json: { text: 'it sent messages that are no JSON', remedy: UNREADABLE },
  unmasked: { text: 'it does not mask its WebSocket frames', remedy: 'Its firmware is too old for this: update it.' },
  overflow: { text: 'it did not read what was sent to it, or sent far more than a device may', remedy: UNREADABLE },
};

const AGAIN = 'As a rule it comes in at one of its next attempts.';

const REFUSALS: Readonly<Record<string, Cause>> = {
  unknown_device: {
    text: 'no device is provisioned under this code',
    remedy: 'Provision it, or compare its code letter by letter: case counts.',
  },
  disabled: { text: 'it is disabled', remedy: 'Set `enabled` to true.' },
  bad_sign: {
    text: 'it signs with another secret than the one that is provisioned',
    remedy: 'Set the same secret here and in the device; a blank at its end is a different secret.',
  },
  bad_sign_format: { text: 'its signature is not base64 of 32 bytes', remedy: 'Update its firmware.' },
  nonce_expired: { text: 'more than the life of a nonce passed between its two requests', remedy: AGAIN },
  nonce_foreign: {
    text: 'it did not use a nonce of this installation',
    remedy: 'Compare LAPI_NONCE_KEY of all edges; they must be the same.',
  },
  nonce_reused: { text: 'it used a nonce twice', remedy: AGAIN },
  bad_param: { text: 'a parameter of its request is empty, too long or contradicts itself', remedy: UNREADABLE },
  duplicate_param: { text: 'its request has a parameter twice', remedy: UNREADABLE },
  hold_down: {
    text: 'its sessions had replaced each other more than five times within a minute',
    remedy:
      'Look at the addresses: two devices with one code, or one that connects again before its old connection has ended.',
  },
  quarantine: { text: 'its sessions had ended for misbehaviour again and again', remedy: UNREADABLE },
  admission: {
    text: 'the node had no room, or more devices came than it takes per second',
    remedy: 'Wait, or add nodes.',
  },
  draining: { text: 'the node was about to stop', remedy: AGAIN },
  store_unavailable: { text: 'Redis did not answer, or the node had no lease', remedy: 'Look at Redis.' },
  deadline: { text: 'it took longer than a registration may', remedy: 'Redis is slow, or the node overloaded.' },
};

export function explain(situation: Situation): Explanation {
  const { row, online, timeline } = situation;
  const [newest] = timeline.refusals;
  if (row === undefined) return notProvisioned(newest);
  const sinceMs = online ? row.owner?.sinceMs : row.lastOffline?.atMs;
  const refusal = newest !== undefined && newest.lastAtMs >= (sinceMs ?? 0) ? newest : undefined;
  return online ? whyOnline(row, timeline, refusal) : whyOffline(situation, row, refusal);
}

type Row = NonNullable<Situation['row']>;

function notProvisioned(refusal: RefusalEntry | undefined): Explanation {
  return {
    status: 'not_provisioned',
    sinceMs: undefined,
    reason: 'not_provisioned',
    text: ['No device is provisioned under this code.', attempts(refusal, undefined)].join(' ').trimEnd(),
    remedy: REFUSALS.unknown_device?.remedy,
    refusal,
  };
}

function whyOnline(row: Row, timeline: DeviceTimeline, refusal: RefusalEntry | undefined): Explanation {
  const { owner, address } = row;
  const before = timeline.sessions.find(
    ({ session, endedAtMs }) => endedAtMs !== undefined && session !== owner?.session,
  );
  const sentences = [
    `Online since ${iso(owner?.sinceMs ?? 0)} on ${owner?.node ?? 'a node'}, from ${address}.`,
    before === undefined ? '' : `Its session before ended at ${iso(before.endedAtMs ?? 0)}: ${ended(before)}.`,
    attempts(refusal, row.hold),
  ];
  return {
    status: 'online',
    sinceMs: owner?.sinceMs,
    reason: undefined,
    text: joined(sentences),
    remedy: refusal === undefined ? undefined : causeOf(refusal).remedy,
    refusal,
  };
}

function whyOffline({ kept }: Situation, row: Row, refusal: RefusalEntry | undefined): Explanation {
  const { owner, lastOffline, enabled, hold } = row;
  // The row still names a node whose lease has ended: its devices are about to be turned offline.
  const end = owner === undefined ? lastOffline?.reason : 'node_lost';
  const sinceMs = owner === undefined ? lastOffline?.atMs : undefined;
  const sentences = [
    end === undefined
      ? 'It has never registered.'
      : `Offline${sinceMs === undefined ? '' : ` since ${iso(sinceMs)}`}: ${causeOfEnd(end).text} (${end}).`,
    enabled ? '' : 'It is disabled, so no registration of it is taken.',
    attempts(refusal, hold),
    refusal === undefined && enabled && kept
      ? 'No refused registration of it is known since then: it does not reach the broker, or has not tried yet.'
      : '',
  ];
  const reason = enabled ? (refusal?.reason ?? end ?? 'never_registered') : 'disabled';
  return {
    status: 'offline',
    sinceMs,
    reason,
    text: joined(sentences),
    remedy: remedyOf(reason, refusal, end),
    refusal,
  };
}

function remedyOf(reason: string, refusal: RefusalEntry | undefined, end: string | undefined): string | undefined {
  if (reason === 'disabled') return REFUSALS.disabled?.remedy;
  if (refusal !== undefined) return causeOf(refusal).remedy;
  if (end !== undefined) return causeOfEnd(end).remedy;
  return 'Look at the address that it dials, its network and the firewall of its site.';
}

function attempts(refusal: RefusalEntry | undefined, hold: DeviceRow['hold']): string {
  if (refusal === undefined) return '';
  const { count, firstAtMs, lastAtMs, address, reason } = refusal;
  const often = count === 1 ? '' : `, ${count} times since ${iso(firstAtMs)}`;
  const addresses = reason === 'hold_down' && hold !== undefined ? seenAt(hold) : '';
  return `A registration under its code was refused at ${iso(lastAtMs)} from ${address}${often}: ${causeOf(refusal).text} (${reason})${addresses}.`;
}

function seenAt({ reason, addresses }: NonNullable<DeviceRow['hold']>): string {
  const list = addresses.join(', ');
  return reason === 'conflict' ? `; two devices seem to use this code, from ${list}` : `; it came from ${list}`;
}

function ended(entry: SessionEntry): string {
  const reason = entry.reason ?? 'closed';
  return `${causeOfEnd(reason).text} (${reason})`;
}

function causeOfEnd(reason: string): Cause {
  return (ENDS as Readonly<Record<string, Cause>>)[reason] ?? { text: 'its session ended' };
}

function causeOf({ reason }: RefusalEntry): Cause {
  return REFUSALS[reason] ?? { text: 'it was not let in' };
}

function joined(sentences: readonly string[]): string {
  return sentences.filter((sentence) => sentence !== '').join(' ');
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
