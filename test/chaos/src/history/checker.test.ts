/** The checker is checked: a history in which all went well has no violation, and each way of breaking a promise is found under its name. */

import { describe, expect, test } from 'vitest';
import { check } from './checker.ts';
import type { CommandView, Entry, Fact, History, PlannedCommand } from './history.ts';

const DEVICE = 'camera';
const OTHER = 'other';
/** Wall clock of the broker at monotonic 0. */
const WALL_MS = 1_000_000;

function planned(marker: string, more: Partial<PlannedCommand> = {}): PlannedCommand {
  return {
    marker,
    device: DEVICE,
    lane: 'normal',
    mode: 'queue',
    method: 'PUT',
    retrySafe: false,
    maxAttempts: 1,
    timeoutMs: 5_000,
    ttlMs: 60_000,
    waitMs: 0,
    key: undefined,
    copies: 1,
    cancelled: false,
    reaction: { kind: 'answer', success: true, afterMs: 50 },
    atMs: 0,
    ...more,
  };
}

function seen(
  state: string,
  executed: string | undefined,
  endedMs?: number,
  more: Partial<CommandView> = {},
): CommandView {
  return {
    state,
    executed,
    late: false,
    attempts: 1,
    expiresAtMs: undefined,
    sentAtMs: undefined,
    endedAtMs: endedMs === undefined ? undefined : WALL_MS + endedMs,
    ...more,
  };
}

/** Writes a history by hand; times only grow. */
class Script implements History {
  readonly wallOffsetMs = WALL_MS;
  readonly commands = new Map<string, PlannedCommand>();
  readonly entries: Entry[] = [];
  #calls = 0;

  plan(marker: string, more: Partial<PlannedCommand> = {}): this {
    this.commands.set(marker, planned(marker, more));
    return this;
  }

  at(atMs: number, fact: Fact): this {
    this.entries.push({ ...fact, atMs } as Entry);
    return this;
  }

  submitted(atMs: number, marker: string, id = `id-${marker}`): this {
    const call = ++this.#calls;
    this.at(atMs, { kind: 'submit.invoke', marker, call });
    return this.at(atMs + 5, { kind: 'submit.ok', marker, call, id, view: undefined });
  }

  refused(atMs: number, marker: string): this {
    const call = ++this.#calls;
    this.at(atMs, { kind: 'submit.invoke', marker, call });
    return this.at(atMs + 5, { kind: 'submit.fail', marker, call, why: '429 lane_full' });
  }

  unanswered(atMs: number, marker: string): this {
    const call = ++this.#calls;
    this.at(atMs, { kind: 'submit.invoke', marker, call });
    return this.at(atMs + 5, { kind: 'submit.info', marker, call, why: 'TimeoutError' });
  }

  received(atMs: number, marker: string, socket = 1, device = DEVICE): this {
    return this.at(atMs, { kind: 'receive', device, socket, marker });
  }

  answered(atMs: number, marker: string, success = true): this {
    return this.at(atMs, { kind: 'answer', device: DEVICE, socket: 1, marker, success });
  }

  viewed(atMs: number, marker: string, view: CommandView | undefined): this {
    return this.at(atMs, { kind: 'view', marker, id: `id-${marker}`, view });
  }

  opened(atMs: number, socket = 1): this {
    return this.at(atMs, { kind: 'socket.open', device: DEVICE, socket, edge: 0 });
  }

  disturbed(fromMs: number, toMs: number, blurs: boolean, devices?: readonly string[]): this {
    this.at(fromMs, { kind: 'disturb.begin', disturbance: fromMs, what: 'a fault', blurs, devices });
    return this.at(toMs, { kind: 'disturb.end', disturbance: fromMs });
  }

  /** Accepted, received, answered, seen as succeeded. */
  done(fromMs: number, marker: string, more: Partial<PlannedCommand> = {}): this {
    return this.plan(marker, more)
      .submitted(fromMs, marker)
      .received(fromMs + 10, marker)
      .answered(fromMs + 60, marker)
      .viewed(fromMs + 100, marker, seen('succeeded', 'yes', fromMs + 62));
  }
}

function found(history: History): string[] {
  return check(history).map(({ check: name, what }) => `${name} ${what}`);
}

function expectOnly(history: History, name: string, what: RegExp): void {
  const violations = check(history);
  expect(violations.map(({ check: each }) => each)).toEqual(violations.map(() => name));
  expect(violations.map((each) => each.what).join('\n')).toMatch(what);
}

describe('a good history has no violation', () => {
  test('commands of one lane, one after the other', () => {
    expect(found(new Script().opened(0).done(10, 'a').done(200, 'b').done(400, 'c'))).toEqual([]);
  });

  test('every honest end: device error, silence, late answer, expiry, cancel, refusal, no word', () => {
    const history = new Script()
      .plan('error', { reaction: { kind: 'answer', success: false, afterMs: 5 } })
      .plan('mute', { reaction: { kind: 'silence' }, timeoutMs: 1_000 })
      .plan('late', { reaction: { kind: 'answer', success: true, afterMs: 2_000 }, timeoutMs: 1_000 })
      .plan('expired', { device: OTHER, ttlMs: 1_000 })
      .plan('cancelled', { device: OTHER })
      .plan('refused', { device: OTHER })
      .plan('lost', { device: OTHER })
      .submitted(10, 'error')
      .received(20, 'error')
      .answered(25, 'error', false)
      .viewed(40, 'error', seen('failed', 'yes', 30))
      .submitted(100, 'mute')
      .received(110, 'mute')
      .submitted(120, 'late')
      .submitted(130, 'expired')
      .submitted(140, 'cancelled')
      .at(150, { kind: 'cancel.invoke', marker: 'cancelled' })
      .at(155, { kind: 'cancel.ok', marker: 'cancelled' })
      .refused(160, 'refused')
      .unanswered(170, 'lost')
      .viewed(180, 'cancelled', seen('cancelled', 'no', 155, { attempts: 0 }))
      .received(1_120, 'late')
      .viewed(1_200, 'mute', seen('timed_out', 'maybe', 1_110))
      .viewed(1_300, 'expired', seen('expired', 'no', 1_130, { attempts: 0 }))
      .viewed(2_200, 'late', seen('timed_out', 'maybe', 2_120))
      .answered(3_120, 'late')
      .viewed(6_000, 'late', seen('succeeded', 'yes', 3_125, { late: true }));
    expect(found(history)).toEqual([]);
  });

  test('a repeatable command that was received once, waited for its next attempt, and expired as perhaps executed', () => {
    const history = new Script()
      .plan('a', { method: 'GET', maxAttempts: 3, ttlMs: 40 })
      .submitted(10, 'a')
      .received(20, 'a')
      .viewed(60, 'a', seen('expired', 'maybe', 55, { attempts: 1 }));
    expect(check(history)).toEqual([]);
  });

  test('a repeatable command that was received again, and one uncertain command per lane and disturbance', () => {
    const history = new Script()
      .plan('again', { method: 'GET', maxAttempts: 3 })
      .plan('blurred')
      .opened(0)
      .submitted(10, 'again')
      .received(20, 'again')
      .disturbed(25, 1_000, true, [DEVICE])
      .opened(1_100, 2)
      .received(1_200, 'again', 2)
      .answered(1_210, 'again')
      .viewed(1_220, 'again', seen('succeeded', 'yes', 1_215, { attempts: 2 }))
      .submitted(1_300, 'blurred')
      .received(1_310, 'blurred', 2)
      .viewed(1_400, 'blurred', seen('unknown', 'maybe', 1_350));
    expect(found(history)).toEqual([]);
  });

  test('two submits under one key with one id, and a submit without an answer that arrived after all', () => {
    const history = new Script()
      .plan('keyed', { key: 'k', copies: 2 })
      .plan('lost')
      .submitted(10, 'keyed', 'one')
      .submitted(11, 'keyed', 'one')
      .unanswered(30, 'lost')
      .received(40, 'keyed')
      .answered(50, 'keyed')
      .viewed(60, 'keyed', seen('succeeded', 'yes', 51))
      .received(70, 'lost')
      .answered(80, 'lost');
    expect(found(history)).toEqual([]);
  });
});

describe('V1', () => {
  test('a command that must not be repeated was received twice', () => {
    expectOnly(new Script().done(10, 'a').received(500, 'a'), 'V1', /received 2 times, 1 allowed/);
  });

  test('a repeatable command was received more often than allowed', () => {
    const history = new Script()
      .plan('a', { method: 'GET', maxAttempts: 2 })
      .submitted(10, 'a')
      .received(20, 'a')
      .received(30, 'a')
      .received(40, 'a')
      .answered(50, 'a')
      .viewed(60, 'a', seen('succeeded', 'yes', 55, { attempts: 2 }));
    expectOnly(history, 'V1', /received 3 times, 2 allowed/);
  });

  test('a device received more than was counted', () => {
    const history = new Script()
      .plan('a', { method: 'GET', maxAttempts: 3 })
      .submitted(10, 'a')
      .received(20, 'a')
      .received(30, 'a')
      .answered(50, 'a')
      .viewed(5_000, 'a', seen('succeeded', 'yes', 55, { attempts: 1 }));
    expectOnly(history, 'V1', /received 2 times, but only 1 attempts counted/);
  });
});

describe('V2', () => {
  const moved = (more: Partial<PlannedCommand>, laterMs: number): Script => {
    const history = new Script().opened(0).done(10, 'a').opened(200, 2).plan('b').plan('c', more);
    history.submitted(210, 'b').received(220, 'b', 2).answered(230, 'b');
    history
      .viewed(240, 'b', seen('succeeded', 'yes', 235))
      .submitted(laterMs, 'c')
      .received(laterMs + 10, 'c', 1);
    history.answered(laterMs + 20, 'c');
    return history.viewed(laterMs + 30, 'c', seen('succeeded', 'yes', laterMs + 25));
  };

  test('a request on an old socket after one on the newer', () => {
    expectOnly(moved({}, 300), 'V2', /on socket 1, 90 ms after b on socket 2/);
  });

  test('a direct call reaches the old socket for a moment, and not longer', () => {
    expect(found(moved({ mode: 'direct' }, 300))).toEqual([]);
    expectOnly(moved({ mode: 'direct' }, 3_000), 'V2', /on socket 1/);
  });
});

describe('V3', () => {
  test('a once-only command is said to have expired, and perhaps to have been executed', () => {
    const history = new Script()
      .plan('a', { method: 'PUT', maxAttempts: 1, ttlMs: 40 })
      .submitted(10, 'a')
      .viewed(60, 'a', seen('expired', 'maybe', 55, { attempts: 1 }));
    expectOnly(history, 'V3', /expired, but executed maybe/);
  });

  test('a repeatable command that was received and then expired denies it', () => {
    const history = new Script()
      .plan('a', { method: 'GET', maxAttempts: 3, ttlMs: 40 })
      .submitted(10, 'a')
      .received(20, 'a')
      .viewed(60, 'a', seen('expired', 'no', 55, { attempts: 1 }));
    expectOnly(history, 'V3', /expired, executed no, but received/);
  });

  test('succeeded, and the device knows nothing of it', () => {
    const history = new Script()
      .plan('a')
      .submitted(10, 'a')
      .viewed(60, 'a', seen('succeeded', 'yes', 50));
    expectOnly(history, 'V3', /succeeded, but never received/);
  });

  test('succeeded before the device answered', () => {
    const history = new Script().plan('a').submitted(10, 'a').received(20, 'a');
    history.viewed(30, 'a', seen('succeeded', 'yes', 25)).answered(40, 'a');
    expectOnly(history, 'V3', /had not answered success/);
  });

  test('succeeded, although the device answered an error', () => {
    const history = new Script().plan('a').submitted(10, 'a').received(20, 'a').answered(30, 'a', false);
    expectOnly(history.viewed(40, 'a', seen('succeeded', 'yes', 35)), 'V3', /had not answered success/);
  });

  test('executed no, and received', () => {
    const history = new Script().plan('a').submitted(10, 'a').received(20, 'a');
    expectOnly(history.viewed(40, 'a', seen('failed', 'no', 35)), 'V3', /executed no, but received/);
  });

  test('received only after it had been called expired', () => {
    const history = new Script().plan('a', { ttlMs: 1_000 }).submitted(10, 'a');
    history.viewed(1_100, 'a', seen('expired', 'no', 1_015)).received(1_200, 'a');
    expectOnly(history, 'V3', /ended expired, executed no, but received/);
  });

  test('cancelling was confirmed, and the device received it', () => {
    const history = new Script()
      .plan('a')
      .submitted(10, 'a')
      .at(20, { kind: 'cancel.ok', marker: 'a' })
      .received(30, 'a');
    expectOnly(history.viewed(40, 'a', seen('cancelled', 'no', 21)), 'V3', /cancelled, but received/);
  });

  test('refused, and received', () => {
    expectOnly(new Script().plan('a').refused(10, 'a').received(20, 'a'), 'V3', /refused, but received/);
  });

  test('an end that does not say whether it was executed, or says more than one can know', () => {
    const silent = new Script()
      .plan('a')
      .submitted(10, 'a')
      .viewed(40, 'a', seen('cancelled', undefined, 35));
    expect(found(silent).join()).toMatch(/without saying/);
    const bold = new Script().disturbed(0, 5, true).plan('a').submitted(10, 'a').received(20, 'a');
    expectOnly(
      bold.viewed(40, 'a', seen('unknown', 'no', 35)),
      'V3',
      /unknown, (but executed no|executed no, but received)/,
    );
  });
});

describe('V4', () => {
  test('accepted and gone', () => {
    expectOnly(new Script().plan('a').submitted(10, 'a').viewed(40, 'a', undefined), 'V4', /not found later/);
    expectOnly(new Script().plan('a').submitted(10, 'a'), 'V4', /nobody could read it/);
  });

  test('still open long after its deadline', () => {
    const history = new Script().plan('a', { ttlMs: 1_000 }).submitted(10, 'a');
    expectOnly(history.viewed(40_000, 'a', seen('queued', undefined)), 'V4', /still queued/);
  });

  test('ended too late', () => {
    const history = new Script().plan('a', { ttlMs: 1_000 }).submitted(10, 'a');
    expectOnly(
      history.viewed(40_000, 'a', seen('expired', 'no', 39_000)),
      'V4',
      /ended expired \d+ ms after its deadline/,
    );
  });

  test('a second end', () => {
    const history = new Script().disturbed(0, 5, true).done(10, 'a');
    expectOnly(history.viewed(300, 'a', seen('unknown', 'maybe', 250)), 'V4', /had ended succeeded, later unknown/);
  });

  test('an uncertain end that became certain without being called late', () => {
    const history = new Script().disturbed(0, 5, true).plan('a').submitted(10, 'a').received(20, 'a');
    history
      .viewed(30, 'a', seen('unknown', 'maybe', 25))
      .answered(40, 'a')
      .viewed(50, 'a', seen('succeeded', 'yes', 45));
    expectOnly(history, 'V4', /had ended unknown, later succeeded/);
  });

  test('expired beside a device that was there all the time', () => {
    const history = new Script().opened(0).plan('a', { ttlMs: 30_000 }).submitted(10, 'a');
    expectOnly(history.viewed(31_000, 'a', seen('expired', 'no', 30_100)), 'V4', /although its device was there/);
  });
});

test('V4: a lane that stands still although nothing is out', () => {
  const history = new Script().opened(0).done(10, 'a').plan('b').submitted(200, 'b').received(9_000, 'b');
  history.answered(9_050, 'b').viewed(9_060, 'b', seen('succeeded', 'yes', 9_055));
  expectOnly(history, 'V4', /waited 8795 ms/);
});

test('V4: the record of a direct call may come behind its answer, and must not end otherwise', () => {
  const called = (last: string): Script => {
    const script = new Script().disturbed(0, 5_000, true).plan('a', { mode: 'direct-then-queue' });
    const view = seen('failed', 'yes');
    script
      .at(10, { kind: 'submit.invoke', marker: 'a', call: 1 })
      .received(20, 'a')
      .answered(70, 'a', false)
      .at(80, { kind: 'submit.ok', marker: 'a', call: 1, id: 'id-a', view })
      .viewed(500, 'a', seen('sent', undefined))
      .viewed(4_000, 'a', seen('unknown', 'maybe', 3_900));
    return last === 'unknown' ? script : script.viewed(5_000, 'a', seen(last, 'yes', 4_900, { late: true }));
  };
  expect(found(called('failed'))).toEqual([]);
  expectOnly(called('unknown'), 'V4', /had ended failed, later unknown/);
});

test('V4: a lane that was begun without a word of it stands still for the timeout of what was begun, and not longer', () => {
  const begun = (receivedMs: number): Script =>
    new Script()
      .opened(0)
      .plan('a', { method: 'GET', maxAttempts: 3, timeoutMs: 20_000 })
      .submitted(10, 'a')
      .disturbed(15, 1_000, true)
      .received(receivedMs, 'a')
      .answered(receivedMs + 50, 'a')
      .viewed(receivedMs + 60, 'a', seen('succeeded', 'yes', receivedMs + 55, { attempts: 2 }));
  expect(found(begun(20_500))).toEqual([]);
  expectOnly(begun(28_000), 'V4', /waited 7000 ms/);
});

describe('V5', () => {
  const uncertain = (state: string, history = new Script()): Script =>
    history
      .plan('a')
      .submitted(10, 'a')
      .received(20, 'a')
      .viewed(6_000, 'a', seen(state, 'maybe', 5_100));

  test('uncertain without a cause', () => {
    expectOnly(uncertain('timed_out'), 'V5', /although its device answers after 50 ms/);
    expectOnly(uncertain('unknown'), 'V5', /although its device answers after 50 ms/);
  });

  test('a disturbance of another device, or one that must not blur, is no cause', () => {
    expectOnly(uncertain('unknown', new Script().disturbed(0, 15, true, [OTHER])), 'V5', /although/);
    expect(found(uncertain('unknown', new Script().disturbed(0, 15, false)))).toContainEqual(
      expect.stringMatching(/^V5 .*although/),
    );
  });

  test('commands written while their device had no line are lost one by one, and those of a device with a line are not', () => {
    const lost = (closedMs: number): Script => {
      const history = new Script()
        .opened(0)
        .disturbed(1, 5, true)
        .at(closedMs, { kind: 'socket.close', device: DEVICE, socket: 1, code: 1006 });
      for (const [i, marker] of ['a', 'b'].entries()) {
        const fromMs = 1_000 * (i + 1);
        history.plan(marker).submitted(fromMs, marker);
        const view = seen('timed_out', 'maybe', fromMs + 900, { sentAtMs: WALL_MS + fromMs + 10 });
        history.viewed(fromMs + 950, marker, view);
      }
      return history;
    };
    expect(found(lost(6))).toEqual([]);
    expectOnly(lost(8_000), 'V5', /2 commands of the normal lane are uncertain after 1 disturbances/);
  });

  test('more uncertain commands in a lane than disturbances', () => {
    const history = new Script().disturbed(0, 5, true);
    for (const [i, marker] of ['a', 'b'].entries()) {
      const fromMs = 100 * (i + 1);
      history
        .plan(marker)
        .submitted(fromMs, marker)
        .received(fromMs + 10, marker);
      history.viewed(fromMs + 50, marker, seen('unknown', 'maybe', fromMs + 20));
    }
    expectOnly(history, 'V5', /2 commands of the normal lane are uncertain after 1 disturbances/);
  });

  test('a late answer that nobody recorded', () => {
    const late = { reaction: { kind: 'answer', success: true, afterMs: 1_500 }, timeoutMs: 1_000 } as const;
    const history = new Script().plan('a', late).submitted(10, 'a').received(20, 'a').answered(1_520, 'a');
    expectOnly(history.viewed(5_000, 'a', seen('timed_out', 'maybe', 1_020)), 'V5', /answered late/);
  });
});

describe('V6', () => {
  test('a later command of the lane was received before an earlier one', () => {
    const history = new Script().plan('a').plan('b').submitted(10, 'a').submitted(20, 'b');
    history.received(30, 'b').answered(35, 'b').received(40, 'a').answered(45, 'a');
    history.viewed(50, 'a', seen('succeeded', 'yes', 46)).viewed(51, 'b', seen('succeeded', 'yes', 36));
    expectOnly(history, 'V6', /b was accepted after a and received before it/);
  });

  test('a retry came after the next command of the lane', () => {
    const history = new Script()
      .plan('a', { method: 'GET', maxAttempts: 2 })
      .plan('b')
      .submitted(10, 'a')
      .submitted(20, 'b');
    history.received(30, 'a').received(40, 'b').answered(45, 'b').received(50, 'a').answered(55, 'a');
    history
      .viewed(60, 'a', seen('succeeded', 'yes', 56, { attempts: 2 }))
      .viewed(61, 'b', seen('succeeded', 'yes', 46));
    expectOnly(history, 'V6', /b was accepted after a/);
  });

  test('two commands of a lane are out at the same time', () => {
    const history = new Script()
      .opened(0)
      .plan('a', { reaction: { kind: 'silence' } })
      .plan('b');
    history.submitted(10, 'a').submitted(20, 'b').received(30, 'a').received(40, 'b').answered(45, 'b');
    history.viewed(60, 'b', seen('succeeded', 'yes', 46)).viewed(5_100, 'a', seen('timed_out', 'maybe', 5_030));
    expectOnly(history, 'V6', /b was sent while a of the same lane was out/);
  });

  test('lanes do not wait for each other', () => {
    const history = new Script().plan('a').plan('b', { lane: 'urgent' }).submitted(10, 'a').submitted(20, 'b');
    history.received(30, 'b').answered(35, 'b').received(40, 'a').answered(45, 'a');
    history.viewed(50, 'a', seen('succeeded', 'yes', 46)).viewed(51, 'b', seen('succeeded', 'yes', 36));
    expect(found(history)).toEqual([]);
  });
});

describe('V11', () => {
  test('two ids for one key', () => {
    const history = new Script().plan('a', { key: 'k', copies: 2 }).submitted(10, 'a', 'one').submitted(11, 'a', 'two');
    history
      .received(20, 'a')
      .answered(30, 'a')
      .viewed(40, 'a', seen('succeeded', 'yes', 35));
    expectOnly(history, 'V11', /2 ids for one key/);
  });

  test('one id for two commands', () => {
    const history = new Script().plan('a').plan('b').submitted(10, 'a', 'one').received(15, 'a').answered(16, 'a');
    history
      .viewed(18, 'a', seen('succeeded', 'yes', 17))
      .submitted(20, 'b', 'one')
      .received(25, 'b')
      .answered(26, 'b');
    expectOnly(history.viewed(40, 'b', seen('succeeded', 'yes', 35)), 'V11', /two commands have the id one/);
  });
});

describe('what a disturbance does not excuse', () => {
  test('V3: received by another device, or without having been submitted', () => {
    const elsewhere = new Script().plan('a').submitted(10, 'a').received(20, 'a', 1, OTHER).answered(30, 'a');
    expectOnly(elsewhere.viewed(40, 'a', seen('succeeded', 'yes', 35)), 'V3', /received by other/);
    expectOnly(new Script().plan('a').received(20, 'a'), 'V3', /not submitted before/);
  });

  test('V3: a repeatable command was received again after cancelling was confirmed, or after its end', () => {
    const repeatable = { method: 'GET', maxAttempts: 3 } as const;
    const history = new Script().plan('a', repeatable).submitted(10, 'a').received(20, 'a');
    history.at(500, { kind: 'cancel.ok', marker: 'a' }).viewed(600, 'a', seen('cancelled', 'maybe', 500));
    expect(found(history)).toEqual([]);
    expectOnly(history.received(4_000, 'a'), 'V3', /received after it had ended/);
    expectOnly(
      new Script()
        .done(10, 'b', repeatable)
        .received(4_000, 'b')
        .viewed(4_100, 'b', seen('succeeded', 'yes', 72, { attempts: 2 })),
      'V3',
      /received after it had ended/,
    );
  });

  test('V3: cancelled, and nobody asked; failed, and perhaps executed', () => {
    const cancelled = new Script().plan('a').submitted(10, 'a');
    expectOnly(cancelled.viewed(40, 'a', seen('cancelled', 'no', 35)), 'V3', /nobody asked/);
    const failed = new Script().plan('a').submitted(10, 'a').received(20, 'a');
    expectOnly(failed.viewed(40, 'a', seen('failed', 'maybe', 35)), 'V3', /failed, but executed maybe/);
  });

  test('V4: given up, or expired before its time, although nothing was wrong', () => {
    const failed = new Script().opened(0).plan('a').submitted(10, 'a');
    expectOnly(failed.viewed(40, 'a', seen('failed', 'no', 35)), 'V4', /given up/);
    const early = new Script().plan('a').submitted(10, 'a');
    expectOnly(early.viewed(4_000, 'a', seen('expired', 'no', 3_900)), 'V4', /expired -\d+ ms after/);
  });

  test('V4: still open when the run ends, though its bound was put off beyond that', () => {
    const history = new Script().disturbed(0, 45_000, true).plan('a', { ttlMs: 1_000 }).submitted(46_000, 'a');
    expectOnly(history.viewed(60_000, 'a', seen('queued', undefined)), 'V4', /still queued at the end/);
  });

  test('V4: what ended before a command was accepted, overlaps, or leaves the store alone, gives it no more time', () => {
    const late = (history: Script): Script =>
      history
        .plan('a', { ttlMs: 1_000 })
        .submitted(40_000, 'a')
        .viewed(80_000, 'a', seen('expired', 'no', 75_000));
    const before = new Script().disturbed(0, 35_000, true);
    expectOnly(late(before), 'V4', /ended expired \d+ ms after/);
    const aside = new Script().disturbed(0, 1, false);
    aside.at(39_000, { kind: 'disturb.begin', disturbance: 9, what: 'a pause', blurs: false, devices: undefined });
    expectOnly(late(aside), 'V4', /ended expired \d+ ms after/);
    const twice = new Script();
    for (const disturbance of [1, 2, 3]) {
      twice.at(30_000, { kind: 'disturb.begin', disturbance, what: 'a cut', blurs: true, devices: undefined });
    }
    late(twice);
    for (const disturbance of [1, 2, 3]) {
      twice.at(81_000, { kind: 'disturb.end', disturbance });
      const end = twice.entries.find((entry) => entry.kind === 'disturb.end' && entry.disturbance === disturbance);
      if (end !== undefined) Object.assign(end, { atMs: 50_000 });
    }
    expectOnly(late(twice), 'V4', /ended expired \d+ ms after/);
  });

  test('V4: an end that is said to have been in time, and was not there yet when it was read later', () => {
    const history = new Script().plan('a', { ttlMs: 1_000 }).submitted(10, 'a');
    history.viewed(40_000, 'a', seen('queued', undefined)).viewed(41_000, 'a', seen('expired', 'no', 1_100));
    expectOnly(history, 'V4', /still queued 38985 ms after its deadline/);
  });

  test('V5: a command that waited through a fault, and was sent long after it', () => {
    const sent = (sentMs: number): Script =>
      new Script()
        .disturbed(0, 5_000, true)
        .plan('a')
        .submitted(4_000, 'a')
        .viewed(sentMs + 600, 'a', seen('unknown', 'maybe', sentMs + 500, { sentAtMs: WALL_MS + sentMs }));
    expect(found(sent(20_000))).toEqual([]);
    expectOnly(sent(40_000), 'V5', /although its device answers/);
  });

  test('V5: a direct call that a drain made uncertain; one whose service died is excused', () => {
    const called = (devices: readonly string[] | undefined): Script =>
      new Script()
        .at(5, { kind: 'disturb.begin', disturbance: 1, what: 'a drain', blurs: false, devices })
        .plan('a', { mode: 'direct' })
        .at(10, { kind: 'submit.invoke', marker: 'a', call: 1 })
        .received(20, 'a')
        .at(5_100, { kind: 'submit.ok', marker: 'a', call: 1, id: 'id-a', view: seen('timed_out', 'maybe') });
    expectOnly(called([DEVICE]), 'V5', /although its device answers/);
    expect(found(called(undefined))).toEqual([]);
  });
});
