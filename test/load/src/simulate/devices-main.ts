/** Simulated devices as a process: enters them into a system, keeps them there, cuts them off, lets them come back. */

import { percentile } from '../measure/spread.ts';
import { answerAs } from '../worker/verbs.ts';
import { Device, type DeviceOptions } from './device.ts';
import { AnswerTemplate, type DeviceIdentity, type Dialect } from './dialect.ts';
import { type NotificationShape, NotificationTemplate } from './notification.ts';

export interface EntryPlan {
  /** Names this group of devices in later questions. */
  readonly group: string;
  readonly dialect: Dialect;
  /** Devices go to the ports in turn. */
  readonly ports: readonly number[];
  readonly devices: readonly DeviceIdentity[];
  readonly answerBytes: number;
  /** Devices that are on their way in at once. */
  readonly atOnce: number;
  /** Come again after a refusal or failure, as a patient device does; otherwise the first one counts as final. */
  readonly retry: boolean;
  readonly localAddress?: string;
  /** The devices come from so many loopback addresses, in turn. */
  readonly sites?: number;
}

/** From now on a device that loses its connection comes back by itself. */
export interface ReturnPlan {
  readonly group: string;
  /** Before it tries, and between tries, a device waits for a random time up to this, whatever Retry-After says. */
  readonly withinMs: number;
}

export interface ReturnTally {
  readonly away: number;
  readonly returned: number;
  readonly refusals: Readonly<Record<string, number>>;
  readonly mostRefusals: number;
  readonly failures: Readonly<Record<string, number>>;
  /** From the loss of the connection to the next 101. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly mostMs: number;
}

export interface EntryTally {
  readonly entered: number;
  /** Answers other than the expected ones, by status. */
  readonly refusals: Readonly<Record<string, number>>;
  /** Most refusals that one device got. */
  readonly mostRefusals: number;
  readonly failures: Readonly<Record<string, number>>;
  readonly elapsedMs: number;
  /** From the start of the plan, retries included. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface NotifyPlan {
  readonly group: string;
  readonly shape: NotificationShape;
  /** Notifications of one device that are not answered yet; a device sends no more. */
  readonly window: number;
  readonly durationMs: number;
  /** Of all devices together; undefined: as fast as answers come. */
  readonly perSecond?: number;
  /** Without a pace: notifications of all devices together that are not answered yet; undefined: as many as their windows hold. */
  readonly atOnce?: number;
}

export interface NotifyTally {
  readonly sent: number;
  readonly accepted: number;
  readonly refused: number;
  /** Due, and not sent because no device had room in its window. */
  readonly notSent: number;
  readonly elapsedMs: number;
}

/** How long the last answers may take. */
const LAST_ANSWERS_MS = 10_000;
const FIRST_PAUSE_MS = 1_000;
const LAST_PAUSE_MS = 30_000;
const TICK_MS = 100;

interface Group {
  plan: EntryPlan;
  readonly devices: Device[];
  lost: number;
  called: number;
  keepalivesAnswered: number;
  keepalivesSent: number;
  timer: NodeJS.Timeout | undefined;
  returns: Returns | undefined;
  onNotified: (device: Device, verdict: 'accepted' | 'refused') => void;
}

interface Returns {
  readonly plan: ReturnPlan;
  away: number;
  readonly gapsMs: number[];
  readonly refusals: Record<string, number>;
  mostRefusals: number;
  readonly failures: Record<string, number>;
  /** Not told yet by `returnedSince`. */
  fresh: { readonly code: string; readonly atMs: number }[];
}

const groups = new Map<string, Group>();

function groupOf(name: string): Group {
  const group = groups.get(name);
  if (group === undefined) throw new RangeError(`no group ${name}`);
  return group;
}

function newGroup(plan: EntryPlan): Group {
  const group: Group = {
    plan,
    devices: [],
    lost: 0,
    called: 0,
    keepalivesAnswered: 0,
    keepalivesSent: 0,
    timer: undefined,
    returns: undefined,
    onNotified: () => undefined,
  };
  groups.set(plan.group, group);
  return group;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function count(counts: Record<string, number>, key: string): void {
  counts[key] = (counts[key] ?? 0) + 1;
}

async function enterAll(group: Group, devices: readonly Device[]): Promise<EntryTally> {
  const { atOnce, retry } = group.plan;
  const refusals: Record<string, number> = {};
  const failures: Record<string, number> = {};
  const enteredMs: number[] = [];
  let mostRefusals = 0;
  let next = 0;
  const startedMs = performance.now();
  const enter = async (device: Device): Promise<void> => {
    let refused = 0;
    for (let attempt = 0; ; attempt++) {
      const entry = await device.enter();
      if (entry.status === 'in') {
        enteredMs.push(performance.now() - startedMs);
        break;
      }
      const grown = Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(attempt, 10)) * (0.5 + 0.5 * Math.random());
      let waitMs = grown;
      if (entry.status === 'refused') {
        count(refusals, String(entry.httpStatus));
        refused++;
        // Those who were told the same moment do not come back in the same moment.
        if (entry.retryAfterMs !== undefined) waitMs = entry.retryAfterMs + Math.random() * FIRST_PAUSE_MS;
      } else count(failures, entry.cause);
      if (!retry) break;
      await pause(waitMs);
    }
    mostRefusals = Math.max(mostRefusals, refused);
  };
  const lane = async (): Promise<void> => {
    for (let device = devices[next++]; device !== undefined; device = devices[next++]) await enter(device);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, devices.length) }, lane));
  const sorted = Float64Array.from(enteredMs).sort();
  return {
    entered: enteredMs.length,
    refusals,
    mostRefusals,
    failures,
    elapsedMs: performance.now() - startedMs,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
  };
}

/** Adds devices to a group; resolves when all are in, or have been refused where `retry` is off. */
async function enter(plan: EntryPlan): Promise<EntryTally> {
  const group = groups.get(plan.group) ?? newGroup(plan);
  group.plan = plan;
  const template = new AnswerTemplate(plan.answerBytes);
  const devices = plan.devices.map((identity, i) => {
    const options: DeviceOptions = {
      dialect: plan.dialect,
      port: plan.ports[i % plan.ports.length] as number,
      localAddress: plan.sites === undefined ? plan.localAddress : siteAddress(i % plan.sites),
      template,
      onLost: (device) => {
        group.lost++;
        if (group.returns !== undefined) void comeBackAlone(device, group.returns);
      },
      onKeepaliveAnswered: () => {
        group.keepalivesAnswered++;
      },
      onCalled: () => {
        group.called++;
      },
      onNotified: (device, verdict) => group.onNotified(device, verdict),
    };
    return new Device(identity, options);
  });
  group.devices.push(...devices);
  return await enterAll(group, devices);
}

/** 127.1.0.0 and up. */
function siteAddress(site: number): string {
  return `127.1.${site >> 8}.${site & 0xff}`;
}

async function comeBackAlone(device: Device, returns: Returns): Promise<void> {
  const lostMs = performance.now();
  returns.away++;
  for (let refused = 0; ; ) {
    await pause(Math.random() * returns.plan.withinMs);
    const entry = await device.enter();
    if (entry.status === 'in') break;
    if (entry.status === 'refused') {
      count(returns.refusals, String(entry.httpStatus));
      returns.mostRefusals = Math.max(returns.mostRefusals, ++refused);
    } else count(returns.failures, entry.cause);
  }
  returns.away--;
  returns.gapsMs.push(performance.now() - lostMs);
  returns.fresh.push({ code: device.identity.code, atMs: Date.now() });
}

/** Begins a new count. Devices that are on their way back under an earlier plan end under that one. */
function returnWhenLost(plan: ReturnPlan): void {
  groupOf(plan.group).returns = {
    plan,
    away: 0,
    gapsMs: [],
    refusals: {},
    mostRefusals: 0,
    failures: {},
    fresh: [],
  };
}

function returnsOf(name: string): Returns {
  const { returns } = groupOf(name);
  if (returns === undefined) throw new RangeError(`devices of ${name} do not come back by themselves`);
  return returns;
}

function returns(name: string): ReturnTally {
  const { away, gapsMs, refusals, mostRefusals, failures } = returnsOf(name);
  const sorted = Float64Array.from(gapsMs).sort();
  return {
    away,
    returned: gapsMs.length,
    refusals,
    mostRefusals,
    failures,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
    mostMs: percentile(sorted, 1),
  };
}

/** The devices that have come back since this was asked last; `atMs` by the clock of this machine. */
function returnedSince(name: string): Returns['fresh'] {
  const all = returnsOf(name);
  const { fresh } = all;
  all.fresh = [];
  return fresh;
}

/** Cuts all devices of a group off at once. */
function cut(name: string): void {
  const group = groupOf(name);
  clearInterval(group.timer);
  group.returns = undefined;
  for (const device of group.devices) device.cut();
}

/** Lets the devices of a group come back that were cut off. */
async function comeBack(name: string): Promise<EntryTally> {
  const group = groupOf(name);
  return await enterAll(group, group.devices);
}

function forget(name: string): void {
  cut(name);
  groups.delete(name);
}

/** Each device sends one keepalive; resolves with the number of answers, all of them unless 30 s were not enough. */
async function keepaliveOnce(name: string): Promise<number> {
  const group = groupOf(name);
  group.keepalivesAnswered = 0;
  for (const device of group.devices) device.keepalive();
  const endMs = performance.now() + 30_000;
  while (group.keepalivesAnswered < group.devices.length && performance.now() < endMs) await pause(TICK_MS);
  return group.keepalivesAnswered;
}

/** Each device sends a keepalive every `intervalMs`, evenly spread, until `cut`. */
function keepaliveEvery({ group: name, intervalMs }: { readonly group: string; readonly intervalMs: number }): void {
  const group = groupOf(name);
  clearInterval(group.timer);
  const startedMs = performance.now();
  let sent = 0;
  group.timer = setInterval(() => {
    const due = Math.floor(((performance.now() - startedMs) / intervalMs) * group.devices.length);
    for (; sent < due; sent++) group.devices[sent % group.devices.length]?.keepalive();
    group.keepalivesSent = sent;
  }, TICK_MS);
}

/** Devices send notifications, in turn. Resolves when all are answered, or the last answers are overdue. */
async function notify(plan: NotifyPlan): Promise<NotifyTally> {
  const { group: name, shape, window, durationMs, perSecond } = plan;
  const group = groupOf(name);
  const template = new NotificationTemplate(shape);
  const open = new Map<Device, number>(group.devices.map((device) => [device, 0]));
  let [sent, accepted, refused, notSent] = [0, 0, 0, 0];
  const startedMs = performance.now();
  const endMs = startedMs + durationMs;
  const send = (device: Device): boolean => {
    const waiting = open.get(device) ?? 0;
    if (waiting >= window || !device.notify(template.frame(sent + 1))) return false;
    open.set(device, waiting + 1);
    sent++;
    return true;
  };
  group.onNotified = (device, verdict) => {
    open.set(device, (open.get(device) ?? 1) - 1);
    if (verdict === 'accepted') accepted++;
    else refused++;
    if (perSecond === undefined && performance.now() < endMs) sendNext();
  };
  let turn = 0;
  const sendNext = (): void => {
    for (let i = 0; i < group.devices.length; i++) {
      if (send(group.devices[turn++ % group.devices.length] as Device)) return;
    }
  };
  if (perSecond === undefined) {
    const { atOnce = group.devices.length * window } = plan;
    for (let i = 0; i < atOnce; i++) sendNext();
    await pause(durationMs);
  } else {
    const total = Math.round((durationMs / 1_000) * perSecond);
    for (let made = 0; made < total; ) {
      const due = Math.min(total, ((performance.now() - startedMs) / 1_000) * perSecond);
      for (; made < due; made++) if (!send(group.devices[made % group.devices.length] as Device)) notSent++;
      await pause(1);
    }
  }
  while (accepted + refused < sent && performance.now() < endMs + LAST_ANSWERS_MS) await pause(1);
  group.onNotified = () => undefined;
  return { sent, accepted, refused, notSent, elapsedMs: performance.now() - startedMs };
}

export interface Counts {
  readonly in: number;
  readonly lost: number;
  /** Calls that LAPI devices answered. */
  readonly called: number;
  readonly keepalivesSent: number;
  readonly keepalivesAnswered: number;
}

function counts(name: string): Counts {
  const { devices, lost, called, keepalivesSent, keepalivesAnswered } = groupOf(name);
  return { in: devices.filter((device) => device.isIn).length, lost, called, keepalivesSent, keepalivesAnswered };
}

const verbs = {
  enter,
  cut,
  comeBack,
  forget,
  keepaliveOnce,
  keepaliveEvery,
  notify,
  counts,
  returnWhenLost,
  returns,
  returnedSince,
};
export type DevicesVerbs = typeof verbs;

answerAs(verbs);
