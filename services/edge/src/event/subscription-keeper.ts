/** Keeps one LAPI subscription alive in one session (protocol §10): create after the 101, renew at half time, create anew when a renewal
 *  fails, back off when creating fails, stop when the device does not know subscriptions. Events are taken with or without it (U5).
 *  A state machine driven by `look` and by the outcomes of its calls; the id lives here only (U4). */

import type { LapiMethod } from '@lapi-broker/protocol';
import type { Call, CallOutcome } from '../command/inflight.ts';

export type SubscriptionState = 'none' | 'active' | 'retrying' | 'unsupported';

export interface SubscriptionView {
  readonly state: SubscriptionState;
  /** Bit mask as the device told it; undefined if it did not. */
  readonly supportType: number | undefined;
  /** Unix seconds by the device's clock. */
  readonly terminationTime: number | undefined;
}

export interface SubscriptionPlan {
  /** Body of the create call. */
  readonly body: Readonly<Record<string, unknown>>;
  /** `full` repeats the create body when renewing (U2). */
  readonly renewBody: 'duration' | 'full';
}

/** What the keeper needs of its session. */
export interface SubscriptionHost {
  monotonicMs(): number;
  submit(call: Call): void;
  /** Asks for a look at this time. */
  lookAt(dueMs: number): void;
  changed(view: SubscriptionView): void;
  /** In [0, 1). */
  random(): number;
}

const PATH = '/LAPI/V1.0/System/Event/Subscription';
const CALL_TIMEOUT_MS = 10_000;
const DELETE_TIMEOUT_MS = 1_000;
const LEAST_RENEWAL_MS = 10_000;
const FIRST_RETRY_MS = 5_000;
const LONGEST_RETRY_MS = 300_000;
const RESPONSE_INVALID_ARGUMENTS = 2;
const RESPONSE_NOT_SUPPORTED = 4;
/** An answer to a subscription call is a few hundred bytes; a longer one is not parsed. */
const MAX_ANSWER_BYTES = 65_536;

interface Granted {
  readonly id: string;
  readonly currentTime: number | undefined;
  readonly terminationTime: number | undefined;
  readonly supportType: number | undefined;
}

export class SubscriptionKeeper {
  /** Monotonic ms of the next step; Infinity when there is none. */
  dueMs: number;
  private readonly host: SubscriptionHost;
  private readonly plan: SubscriptionPlan;
  private granted: Granted | undefined;
  private state: SubscriptionState = 'none';
  private callOut = false;
  private failures = 0;
  private withoutType = false;
  private stopped = false;

  constructor(host: SubscriptionHost, plan: SubscriptionPlan, firstMs: number) {
    this.host = host;
    this.plan = plan;
    this.dueMs = firstMs;
  }

  get view(): SubscriptionView {
    return {
      state: this.state,
      supportType: this.granted?.supportType,
      terminationTime: this.granted?.terminationTime,
    };
  }

  look(nowMs: number): number {
    if (this.stopped || this.callOut) return Number.POSITIVE_INFINITY;
    if (nowMs >= this.dueMs) this.step();
    return this.callOut ? Number.POSITIVE_INFINITY : this.dueMs;
  }

  /** Drain: DELETE what this session created, waiting at most 1 s (U4). */
  async remove(): Promise<void> {
    this.stopped = true;
    const granted = this.granted;
    this.granted = undefined;
    if (granted === undefined) return;
    await new Promise<void>((resolve) => {
      this.call('DELETE', `${PATH}/${granted.id}`, {}, DELETE_TIMEOUT_MS, () => resolve());
    });
  }

  private step(): void {
    const granted = this.granted;
    if (granted === undefined) {
      this.call('POST', PATH, this.createBody(), CALL_TIMEOUT_MS, (outcome) => this.created(outcome));
      return;
    }
    const body = this.plan.renewBody === 'full' ? this.createBody() : { Duration: this.plan.body.Duration };
    this.call('PUT', `${PATH}/${granted.id}`, body, CALL_TIMEOUT_MS, (outcome) => this.renewed(granted, outcome));
  }

  private createBody(): Record<string, unknown> {
    const body: Record<string, unknown> = { ...this.plan.body };
    if (this.withoutType) delete body.Type;
    return body;
  }

  private created(outcome: CallOutcome): void {
    const granted = grantedBy(outcome);
    if (granted !== undefined && granted.id !== '') {
      this.failures = 0;
      this.grant(granted);
      return;
    }
    const code = outcome.outcome === 'answered' ? outcome.response.responseCode : undefined;
    if (code === RESPONSE_NOT_SUPPORTED) {
      this.dueMs = Number.POSITIVE_INFINITY;
      this.move('unsupported');
    } else if (code === RESPONSE_INVALID_ARGUMENTS && !this.withoutType && this.plan.body.Type !== undefined) {
      // Some firmware refuses a Type it does not know; without it everything is subscribed (U3).
      this.withoutType = true;
      this.again(0);
    } else {
      const waitMs = Math.min(FIRST_RETRY_MS * 2 ** this.failures, LONGEST_RETRY_MS);
      this.failures = Math.min(this.failures + 1, 16);
      this.again(waitMs * (0.8 + 0.4 * this.host.random()));
      this.move('retrying');
    }
  }

  private renewed(before: Granted, outcome: CallOutcome): void {
    const granted = grantedBy(outcome);
    if (granted === undefined) {
      this.granted = undefined;
      this.again(0);
      this.move('retrying');
      return;
    }
    this.grant({ ...granted, id: before.id, supportType: granted.supportType ?? before.supportType });
  }

  private grant(granted: Granted): void {
    this.granted = granted;
    const { currentTime, terminationTime } = granted;
    const told =
      currentTime !== undefined && terminationTime !== undefined ? (terminationTime - currentTime) * 1_000 : 0;
    const asked = typeof this.plan.body.Duration === 'number' ? this.plan.body.Duration * 1_000 : 600_000;
    this.again(Math.max(LEAST_RENEWAL_MS, (told > 0 ? told : asked) / 2));
    this.move('active');
  }

  private again(inMs: number): void {
    this.dueMs = this.host.monotonicMs() + inMs;
    if (!this.stopped) this.host.lookAt(this.dueMs);
  }

  private move(state: SubscriptionState): void {
    const changed = state !== this.state || state === 'active';
    this.state = state;
    if (changed && !this.stopped) this.host.changed(this.view);
  }

  private call(
    method: LapiMethod,
    url: string,
    data: Record<string, unknown>,
    timeoutMs: number,
    settled: (outcome: CallOutcome) => void,
  ): void {
    this.callOut = true;
    this.host.submit({
      method,
      url,
      body: Buffer.from(JSON.stringify(data)),
      deadlineMs: this.host.monotonicMs() + timeoutMs,
      priority: true,
      isUpkeep: true,
      settle: (outcome) => {
        this.callOut = false;
        settled(outcome);
      },
    });
  }
}

function grantedBy(outcome: CallOutcome): Granted | undefined {
  if (outcome.outcome !== 'answered' || !outcome.response.success) return undefined;
  const { data } = outcome.response;
  if (data === undefined || data.byteLength > MAX_ANSWER_BYTES)
    return { id: '', currentTime: undefined, terminationTime: undefined, supportType: undefined };
  let parsed: unknown;
  try {
    parsed = JSON.parse(data.toString());
    // Tolerance 6.3.1: Data may be JSON text inside a string.
    if (typeof parsed === 'string') parsed = JSON.parse(parsed);
  } catch {
    parsed = undefined; // A success without readable Data: no id, so the create counts as failed.
  }
  const members = typeof parsed === 'object' && parsed !== null ? (parsed as Record<string, unknown>) : {};
  return {
    id: idText(members.ID),
    currentTime: wholeNumber(members.CurrentTime),
    terminationTime: wholeNumber(members.TerminationTime),
    supportType: wholeNumber(members.SupportType),
  };
}

/** Number or string, 0 is valid (tolerance 6.3.8); it becomes a path segment, so anything else counts as absent. */
function idText(value: unknown): string {
  const text = typeof value === 'number' ? String(value) : typeof value === 'string' ? value : '';
  return /^[A-Za-z0-9_-]{1,64}$/.test(text) ? text : '';
}

function wholeNumber(value: unknown): number | undefined {
  const number = typeof value === 'string' && value !== '' ? Number(value) : value;
  return typeof number === 'number' && Number.isSafeInteger(number) ? number : undefined;
}
