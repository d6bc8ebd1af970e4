import { describe, expect, test } from 'vitest';
import type { Call, CallOutcome } from '../command/inflight.ts';
import { SubscriptionKeeper, type SubscriptionPlan, type SubscriptionView } from './subscription-keeper.ts';

function rig(plan: SubscriptionPlan = { body: { Duration: 600, Type: 0 }, renewBody: 'duration' }) {
  const calls: Call[] = [];
  const views: SubscriptionView[] = [];
  let nowMs = 0;
  const keeper = new SubscriptionKeeper(
    {
      monotonicMs: () => nowMs,
      submit: (call) => calls.push(call),
      lookAt: () => undefined,
      changed: (view) => views.push(view),
      random: () => 0.5,
    },
    plan,
    2_000,
  );
  const at = (ms: number): number => {
    nowMs = ms;
    return keeper.look(ms);
  };
  const settle = (outcome: CallOutcome): void => calls.at(-1)?.settle(outcome);
  const success = (data: unknown): CallOutcome => outcome(0, data);
  const outcome = (code: number, data: unknown = {}): CallOutcome => ({
    outcome: 'answered',
    response: {
      type: 'response',
      url: '',
      cseq: 1,
      responseCode: code,
      statusCode: undefined,
      success: code === 0,
      text: Buffer.from('{}'),
      cutStart: 2,
      cutEnd: 2,
      data: Buffer.from(JSON.stringify(data)),
    },
  });
  const sent = () => calls.map((call) => `${call.method} ${call.url} ${Buffer.from(call.body)}`);
  return { keeper, at, settle, success, outcome, sent, views, calls };
}

const CREATE = 'POST /LAPI/V1.0/System/Event/Subscription {"Duration":600,"Type":0}';
const GRANTED = { ID: 249, CurrentTime: 1_735_689_600, TerminationTime: 1_735_690_200, SupportType: 16_417 };

describe('the subscription keeper (protocol §10, L27)', () => {
  test('creates nothing before its time, then the body of the profile, with priority (U1)', () => {
    const { at, sent, calls } = rig();
    at(1_999);
    expect(sent()).toEqual([]);
    at(2_000);
    expect(sent()).toEqual([CREATE]);
    expect(calls[0]?.priority).toBe(true);
  });

  test('renews at half of the time that the device granted (U2)', () => {
    const { at, settle, success, sent, views } = rig();
    at(2_000);
    settle(success(GRANTED));
    expect(views.at(-1)).toEqual({ state: 'active', supportType: 16_417, terminationTime: 1_735_690_200 });
    at(301_999);
    expect(sent()).toHaveLength(1);
    at(302_000);
    expect(sent()[1]).toBe('PUT /LAPI/V1.0/System/Event/Subscription/249 {"Duration":600}');
  });

  test('without times in the answer the asked duration counts, and never less than 10 s (U2)', () => {
    const { at, settle, success, sent } = rig({ body: { Duration: 4 }, renewBody: 'full' });
    at(2_000);
    settle(success({ ID: '0' }));
    at(11_999);
    expect(sent()).toHaveLength(1);
    at(12_000);
    expect(sent()[1]).toBe('PUT /LAPI/V1.0/System/Event/Subscription/0 {"Duration":4}');
  });

  test('a failed renewal creates a new subscription at once (U3)', () => {
    const { at, settle, success, sent } = rig();
    at(2_000);
    settle(success(GRANTED));
    at(302_000);
    settle({ outcome: 'timeout', written: true });
    at(302_050);
    expect(sent()[2]).toBe(CREATE);
  });

  test('failed creates are repeated after 5, 10, 20 … 300 s (U3)', () => {
    const { at, settle, outcome, sent, views } = rig();
    let now = 2_000;
    at(now);
    for (const wait of [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]) {
      const before = sent().length;
      settle(outcome(1));
      expect(views.at(-1)?.state).toBe('retrying');
      at(now + wait - 1);
      expect(sent()).toHaveLength(before);
      now += wait;
      at(now);
      expect(sent()).toHaveLength(before + 1);
    }
  });

  test('code 2 is tried once more without Type (U3)', () => {
    const { at, settle, outcome, sent } = rig();
    at(2_000);
    settle(outcome(2));
    at(2_050);
    expect(sent()[1]).toBe('POST /LAPI/V1.0/System/Event/Subscription {"Duration":600}');
    settle(outcome(2));
    at(2_100);
    expect(sent()).toHaveLength(2);
  });

  test('code 4 ends it until the next session (U3)', () => {
    const { at, settle, outcome, sent, views } = rig();
    at(2_000);
    settle(outcome(4));
    expect(views.at(-1)?.state).toBe('unsupported');
    at(10_000_000);
    expect(sent()).toHaveLength(1);
  });

  test('a drain deletes the id of this session and creates nothing any more (U4)', async () => {
    const { keeper, at, settle, success, sent, outcome } = rig();
    at(2_000);
    settle(success(GRANTED));
    const removed = keeper.remove();
    expect(sent()[1]).toBe('DELETE /LAPI/V1.0/System/Event/Subscription/249 {}');
    settle(outcome(0));
    await removed;
    at(10_000_000);
    expect(sent()).toHaveLength(2);
  });

  test('an id that could leave its path segment counts as none (S12)', () => {
    const { at, settle, success, views } = rig();
    at(2_000);
    settle(success({ ID: '../Reboot' }));
    expect(views.at(-1)?.state).toBe('retrying');
  });
});
