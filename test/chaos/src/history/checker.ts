/** Judges a history: did what the devices received agree with what the API said? Pure. Finds, per statement of the reliability promises:
 *
 *  V1   a marker that must not be repeated was received at most once; others at most `maxAttempts` times, and never oftener than counted (I7)
 *  V2   after the first receipt on a socket none on an older one of the same device; a direct call may still reach the older one until its node
 *       has been told of the newer (I1, I3)
 *  V3   succeeded: received, and answered with success before; executed no, refused or cancelled: never received; received by its own device
 *       only, after it was submitted, and not after it ended (I4)
 *  V4   every accepted command ends in time, stays readable, and its end changes only by a late answer; nothing expires early, is given up or
 *       expires beside an undisturbed device that is there, or waits long for it while its lane is free (I4)
 *  V5   `unknown` and `timed_out` have a cause: the device did not answer in time, or a disturbance that may blur, soon before it was sent or
 *       while it was out; at most one command per lane and disturbance; a late answer is recorded (I4)
 *  V6   in one lane, what was accepted later is first received after the last receipt of what was accepted earlier, and when that has been
 *       answered or given up (I6, a window of one)
 *  V11  one id per key, one command per id (I4.3)
 *
 *  What nobody can know (a submit without an answer) is held against nobody: it constrains no order and needs no end. */

import {
  type CommandView,
  type Entry,
  type EntryOf,
  type History,
  isEnded,
  isUncertain,
  type PlannedCommand,
} from './history.ts';

export type CheckName = 'V1' | 'V2' | 'V3' | 'V4' | 'V5' | 'V6' | 'V11';

export interface Violation {
  readonly check: CheckName;
  readonly device: string;
  readonly markers: readonly string[];
  readonly what: string;
}

/** Everything that is known of one command. */
export interface Trace {
  readonly command: PlannedCommand;
  readonly ids: ReadonlySet<string>;
  /** The broker accepted it somewhere in this span; the end is Infinity while nobody knows. */
  readonly acceptedFromMs: number;
  readonly acceptedByMs: number;
  /** Every submit was answered with a certain no. */
  readonly refused: boolean;
  /** Somebody asked for it. */
  readonly cancelling: boolean;
  readonly cancelled: boolean;
  readonly receipts: readonly EntryOf<'receive'>[];
  readonly answers: readonly EntryOf<'answer'>[];
  /** As read over time; undefined: 404. */
  readonly views: readonly { readonly atMs: number; readonly view: CommandView | undefined }[];
  readonly last: CommandView | undefined;
}

export interface Disturbance {
  readonly fromMs: number;
  readonly toMs: number;
  readonly what: string;
  readonly blurs: boolean;
  readonly devices: ReadonlySet<string> | undefined;
}

interface Scene {
  readonly traces: readonly Trace[];
  readonly disturbances: readonly Disturbance[];
  readonly sockets: ReadonlyMap<string, readonly Span[]>;
  readonly receipts: readonly EntryOf<'receive'>[];
  readonly wallOffsetMs: number;
  readonly endMs: number;
}

/** When a socket was open. */
interface Span {
  readonly socket: number;
  readonly fromMs: number;
  readonly toMs: number;
}

/** Past its deadline and timeout, a command may take this long to end (I4.2). */
const END_GRACE_MS = 15_000;
/** After a disturbance its consequences may show this long (recovery targets: an edge 20 s, Redis 9 s). */
const RECOVERY_MS = 20_000;
/** A device that was there for so long, undisturbed, gets what waits for it. */
const SERVED_WITHIN_MS = 20_000;
/** What may start does so within it: the first call of a session, a hint that was lost, and some slack. */
const STALL_MS = 6_000;
/** How much later than it was told the timers of a loaded machine may fire. */
const SLACK_MS = 1_000;

export function check(history: History): Violation[] {
  const scene = arrange(history);
  return [
    ...scene.traces.flatMap((trace) => [
      ...checkRepetition(trace),
      ...checkTruth(trace),
      ...checkReceipts(trace, scene),
      ...checkEnd(trace, scene),
      ...checkUncertain(trace, scene),
    ]),
    ...checkBlur(scene),
    ...checkSockets(scene),
    ...checkOrder(scene),
    ...checkPace(scene),
    ...checkIds(scene),
  ];
}

/** The traces of a history, for those who count. */
export function tracesOf(history: History): readonly Trace[] {
  return arrange(history).traces;
}

/** The entries that a violation is about, with the sockets of its device and the disturbances. */
export function entriesOf({ entries }: History, { markers, device }: Violation): Entry[] {
  return entries.filter((entry) => {
    if ('marker' in entry) return markers.includes(entry.marker);
    return 'device' in entry ? entry.device === device : true;
  });
}

function checkRepetition({ command, receipts, views }: Trace): Violation[] {
  const { marker, device, maxAttempts } = command;
  const found = (what: string): Violation => ({ check: 'V1', device, markers: [marker], what });
  const violations: Violation[] = [];
  if (receipts.length > maxAttempts) {
    violations.push(found(`received ${receipts.length} times, ${maxAttempts} allowed`));
  }
  const counted = Math.max(0, ...views.map(({ view }) => view?.attempts ?? 0));
  if (counted > maxAttempts) violations.push(found(`${counted} attempts counted, ${maxAttempts} allowed`));
  const last = views.at(-1);
  const told = last?.view?.attempts;
  // A direct call has no attempts to count.
  if (last !== undefined && told !== undefined && command.mode === 'queue') {
    const before = receipts.filter(({ atMs }) => atMs < last.atMs - SLACK_MS).length;
    if (before > told) violations.push(found(`received ${before} times, but only ${told} attempts counted`));
  }
  return violations;
}

/** Where and when a command may be received at all, whatever is said of it. */
function checkReceipts(trace: Trace, scene: Scene): Violation[] {
  const { command, receipts, views, acceptedFromMs } = trace;
  const { marker, device } = command;
  const found = (what: string): Violation => ({ check: 'V3', device, markers: [marker], what });
  const endedMs = views.find(({ view }) => view !== undefined && isEnded(view.state))?.atMs;
  return receipts.flatMap((receipt): Violation[] => {
    const { atMs } = receipt;
    if (receipt.device !== device) return [found(`received by ${receipt.device}`)];
    if (atMs < acceptedFromMs) return [found('received, but not submitted before')];
    // What is in a line that stands still arrives later.
    if (endedMs === undefined || atMs < endedMs + SLACK_MS || command.mode !== 'queue') return [];
    return disturbing(scene, device, acceptedFromMs, atMs).length > 0 ? [] : [found('received after it had ended')];
  });
}

function checkTruth({ command, receipts, answers, views, refused, cancelling, cancelled }: Trace): Violation[] {
  const { marker, device } = command;
  const violations: Violation[] = [];
  const found = (what: string): void => void violations.push({ check: 'V3', device, markers: [marker], what });
  if (refused && receipts.length > 0) found('refused, but received');
  // Between two attempts a repeatable command waits like others, and what is said of its end must not deny the first.
  const isRepeatable = command.maxAttempts > 1;
  if (cancelled && receipts.length > 0 && !isRepeatable) found('cancelled, but received');
  const told = new Set<string>();
  for (const { atMs, view } of views) {
    if (view === undefined || !isEnded(view.state)) continue;
    const { state, executed } = view;
    // One statement is judged once, when it was first made.
    const statement = `${state} ${executed}`;
    if (told.has(statement)) continue;
    told.add(statement);
    if (cancelled && state !== 'cancelled') found(`cancelling was confirmed, but it ended ${state}`);
    if (executed === undefined) found(`ended ${state} without saying whether it was executed`);
    if (state === 'cancelled' && !cancelling) found('cancelled, and nobody asked for it');
    if (state === 'failed' && executed === 'maybe' && command.mode === 'queue' && !isRepeatable) {
      found('failed, but executed maybe');
    }
    if (executed === 'no' && receipts.length > 0) found(`ended ${state}, executed no, but received`);
    if (executed === 'yes' && !answers.some((answer) => answer.atMs <= atMs)) {
      found(`ended ${state}, executed yes, but the device had not answered`);
    }
    if (state === 'succeeded') {
      if (executed !== 'yes') found(`succeeded, but executed ${executed}`);
      if (receipts.length === 0) found('succeeded, but never received');
      if (!answers.some((answer) => answer.success && answer.atMs <= atMs)) {
        found('succeeded, but the device had not answered success');
      }
    }
    if (state === 'failed' && executed === 'yes' && !answers.some(({ success }) => !success)) {
      found('failed by the device, but the device answered success');
    }
    const isUnsent = executed === 'no' || (executed === 'maybe' && isRepeatable);
    if ((state === 'expired' || state === 'cancelled') && !isUnsent) found(`${state}, but executed ${executed}`);
    if (isUncertain(state) && executed !== 'maybe') found(`${state}, but executed ${executed}`);
  }
  return violations;
}

function checkEnd(trace: Trace, scene: Scene): Violation[] {
  const { command, views, last, acceptedByMs, ids } = trace;
  const { marker, device } = command;
  const violations: Violation[] = [];
  const found = (what: string): void => void violations.push({ check: 'V4', device, markers: [marker], what });
  // Of a direct call nothing is kept without a key; its answer was its end.
  if (command.mode === 'direct' || ids.size === 0) return violations;
  if (views.length === 0) found('accepted, but nobody could read it');
  if (views.some(({ view }) => view === undefined)) found('accepted, but not found later');
  let ended: CommandView | undefined;
  const changes = new Set<string>();
  for (const { view } of views) {
    if (view === undefined) continue;
    if (ended !== undefined && view.state !== ended.state) {
      const late = isUncertain(ended.state) && view.late && (view.state === 'succeeded' || view.state === 'failed');
      if (!late && !isBehind(trace, ended, view))
        changes.add(`had ended ${ended.state}, later ${view.state}${view.late ? ' late' : ''}`);
    }
    if (isEnded(view.state)) ended = view;
  }
  for (const change of changes) found(change);
  if (last === undefined) return violations;
  const deadlineMs = acceptedByMs + command.ttlMs;
  const boundMs = untilMs(deadlineMs + command.timeoutMs + END_GRACE_MS, acceptedByMs, scene);
  const open = views.findLast(({ view }) => view !== undefined && !isEnded(view.state));
  const afterMs = (atMs: number): string => `${Math.round(atMs - deadlineMs)} ms after its deadline`;
  // A run reads until everything has ended, or until all of it should have.
  if (!isEnded(last.state)) found(`still ${last.state} at the end, ${afterMs(scene.endMs)}`);
  else if (open !== undefined && open.atMs > boundMs) found(`still ${open.view?.state} ${afterMs(open.atMs)}`);
  else if (!last.late && last.endedAtMs !== undefined && last.endedAtMs - scene.wallOffsetMs > boundMs) {
    found(`ended ${last.state} ${afterMs(last.endedAtMs - scene.wallOffsetMs)}`);
  }
  const expired = views.find(({ view }) => view?.state === 'expired');
  if (expired !== undefined && expired.atMs < trace.acceptedFromMs + command.ttlMs - SLACK_MS) {
    found(`expired ${afterMs(expired.atMs)}`);
  }
  if (trace.receipts.length === 0 && last.state === 'failed' && last.executed === 'no' && command.mode === 'queue') {
    const readMs = views.find(({ view }) => view?.state === 'failed')?.atMs ?? scene.endMs;
    const calm = disturbing(scene, device, trace.acceptedFromMs, readMs).length === 0;
    if (calm) found('given up, although nothing was wrong');
  }
  if (last.state === 'expired' && last.endedAtMs !== undefined) {
    const toMs = last.endedAtMs - scene.wallOffsetMs;
    const fromMs = toMs - SERVED_WITHIN_MS;
    const there = (scene.sockets.get(device) ?? []).some((span) => span.fromMs < fromMs && span.toMs > toMs);
    if (there && acceptedByMs < fromMs && disturbing(scene, device, fromMs, toMs).length === 0) {
      found(`expired, although its device was there, undisturbed, for ${SERVED_WITHIN_MS} ms`);
    }
  }
  return violations;
}

/** That time, put off by how long the store was perhaps away since. */
function untilMs(boundMs: number, sinceMs: number, { disturbances }: Scene): number {
  let putOffMs = boundMs;
  let countedMs = sinceMs;
  for (const { fromMs, toMs, blurs } of [...disturbances].sort((a, b) => a.fromMs - b.fromMs)) {
    if (!blurs || fromMs > putOffMs) continue;
    putOffMs += Math.max(0, toMs - Math.max(fromMs, countedMs));
    countedMs = Math.max(countedMs, toMs);
  }
  return putOffMs;
}

/** The caller of a direct call has its answer also while the store is away. Its record says the same later; until then, nothing, or that nobody
 *  knows, if it had to be given up meanwhile. */
function isBehind({ command, last }: Trace, told: CommandView, view: CommandView): boolean {
  if (command.mode === 'queue') return false;
  return view.state === 'sent' || (view.state === 'unknown' && (last?.state === told.state || isUncertain(told.state)));
}

/** May the device itself be the reason that nobody knows? */
function isSlow({ command: { reaction, timeoutMs }, receipts, answers }: Trace): boolean {
  if (reaction.kind === 'silence' || reaction.afterMs + SLACK_MS > timeoutMs) return true;
  // Also against the plan, where the machine held it up.
  return receipts.some((receipt) => {
    const answer = answers.find(({ atMs }) => atMs >= receipt.atMs);
    return answer !== undefined && answer.atMs - receipt.atMs + SLACK_MS > timeoutMs;
  });
}

function checkUncertain(trace: Trace, scene: Scene): Violation[] {
  const { command, last, receipts, answers, views } = trace;
  const { marker, device, mode, reaction } = command;
  if (last === undefined || !isUncertain(last.state)) return [];
  const found = (what: string): Violation[] => [{ check: 'V5', device, markers: [marker], what }];
  // What disturbed while it only waited is no cause.
  const begunMs = receipts.map(({ atMs }) => atMs);
  if (last.sentAtMs !== undefined) begunMs.push(last.sentAtMs - scene.wallOffsetMs);
  const fromMs = begunMs.length > 0 ? Math.min(...begunMs) : trace.acceptedFromMs;
  const toMs = last.endedAtMs === undefined ? scene.endMs : last.endedAtMs - scene.wallOffsetMs;
  const causes = disturbing(scene, device, fromMs, toMs);
  // A direct call dies with its service. What touches some devices and must not blur, a drain, ends no call of either kind.
  if (causes.some(({ blurs, devices }) => blurs || (mode !== 'queue' && devices === undefined))) return [];
  if (!isSlow(trace)) {
    return found(
      `${last.state}, although its device answers after ${reaction.kind === 'answer' ? reaction.afterMs : 0} ms`,
    );
  }
  if (causes.length > 0 || mode !== 'queue') return [];
  if (last.state !== 'timed_out') return found(`${last.state}, although its device only kept silent`);
  // A repeatable command is out again when the answer to an earlier attempt comes.
  const readMs = views.at(-1)?.atMs ?? 0;
  const answered = answers.some(
    ({ atMs }) => atMs < readMs - SLACK_MS && disturbing(scene, device, fromMs, atMs + SLACK_MS).length === 0,
  );
  return answered && command.maxAttempts === 1 ? found('answered late, and that was not recorded') : [];
}

/** Written while the device had no line, to a node that did not know: one command after the other can be lost so, each for its timeout. */
function isIntoDeadLine({ command, last, receipts }: Trace, { sockets, wallOffsetMs }: Scene): boolean {
  if (last?.sentAtMs === undefined || receipts.length > 0) return false;
  const sentMs = last.sentAtMs - wallOffsetMs;
  return !(sockets.get(command.device) ?? []).some(({ fromMs, toMs }) => fromMs <= sentMs && sentMs <= toMs);
}

/** With a window of one, a disturbance can catch one command per lane. */
function checkBlur(scene: Scene): Violation[] {
  const lanes = new Map<string, Trace[]>();
  for (const trace of scene.traces) {
    const { command, last } = trace;
    if (command.mode !== 'queue' || last === undefined || !isUncertain(last.state) || isSlow(trace)) continue;
    if (isIntoDeadLine(trace, scene)) continue;
    const lane = laneOf(command);
    const members = lanes.get(lane);
    if (members === undefined) lanes.set(lane, [trace]);
    else members.push(trace);
  }
  return [...lanes.values()].flatMap((blurred): Violation[] => {
    const [first] = blurred;
    if (first === undefined) return [];
    const { device, lane } = first.command;
    const allowed = scene.disturbances.filter(
      ({ blurs, devices }) => blurs && (devices === undefined || devices.has(device)),
    ).length;
    if (blurred.length <= allowed) return [];
    const what = `${blurred.length} commands of the ${lane} lane are uncertain after ${allowed} disturbances`;
    return [{ check: 'V5', device, markers: blurred.map(({ command }) => command.marker), what }];
  });
}

function checkSockets({ receipts, traces, sockets, disturbances }: Scene): Violation[] {
  const modes = new Map(traces.map(({ command }) => [command.marker, command.mode]));
  const newest = new Map<string, EntryOf<'receive'>>();
  const violations: Violation[] = [];
  /** When the node of an older socket must have heard that there is a newer one. */
  const toldByMs = (device: string, newer: number): number => {
    const fromMs = sockets.get(device)?.find(({ socket }) => socket === newer)?.fromMs ?? 0;
    const ends = disturbances
      .filter((each) => each.fromMs <= fromMs && (each.devices === undefined || each.devices.has(device)))
      .map(({ toMs }) => toMs);
    return Math.max(fromMs, ...ends) + SLACK_MS;
  };
  for (const receipt of receipts) {
    const { device, socket, marker } = receipt;
    const before = newest.get(device);
    if (before !== undefined && socket < before.socket) {
      const isDirect = modes.get(marker) !== 'queue';
      if (isDirect && receipt.atMs <= toldByMs(device, before.socket)) continue;
      const sinceMs = Math.round(receipt.atMs - before.atMs);
      const what = `received on socket ${socket}, ${sinceMs} ms after ${before.marker} on socket ${before.socket}`;
      violations.push({ check: 'V2', device, markers: [marker, before.marker], what });
    } else if (before === undefined || socket > before.socket) {
      newest.set(device, receipt);
    }
  }
  return violations;
}

/** Received commands of each lane, in the order of their first receipt. Direct calls stand beside the lanes, and what was direct first took its
 *  place later. */
function lanesOf({ traces }: Scene): Trace[][] {
  const received = traces.filter(({ command, receipts }) => command.mode === 'queue' && receipts.length > 0);
  const lanes = Map.groupBy(received, ({ command }) => laneOf(command));
  return [...lanes.values()].map((lane) => lane.sort((a, b) => firstOf(a).atMs - firstOf(b).atMs));
}

function laneOf({ device, lane }: PlannedCommand): string {
  return `${device} ${lane}`;
}

function firstOf({ receipts }: Trace): EntryOf<'receive'> {
  return receipts[0] as EntryOf<'receive'>;
}

function checkOrder(scene: Scene): Violation[] {
  const violations: Violation[] = [];
  for (const lane of lanesOf(scene)) {
    for (const earlier of lane) {
      const lastReceipt = earlier.receipts.at(-1);
      for (const later of lane) {
        if (lastReceipt === undefined || earlier.acceptedByMs >= later.acceptedFromMs) continue;
        if (lastReceipt.atMs < firstOf(later).atMs) continue;
        const { device, marker } = earlier.command;
        const what = `${later.command.marker} was accepted after ${marker} and received before it`;
        violations.push({ check: 'V6', device, markers: [marker, later.command.marker], what });
      }
    }
  }
  return violations;
}

/** Until when a command occupies its lane, if nothing disturbs: its answer, or its time is over. */
function occupiedUntilMs({ command, receipts, answers }: Trace): number {
  const lastMs = receipts.at(-1)?.atMs ?? 0;
  const answer = answers.find(({ atMs }) => atMs >= lastMs);
  return Math.min(answer?.atMs ?? Number.POSITIVE_INFINITY, lastMs + command.timeoutMs);
}

/** A begin whose answer is lost occupies its lane all the same, until its time is over: it was counted, and nothing of it was received. Until when
 *  that may hold up its lane, by lane. */
function lostBegins(scene: Scene): ReadonlyMap<string, number> {
  const until = new Map<string, number>();
  for (const { command, receipts, last, acceptedFromMs } of scene.traces) {
    if (command.mode !== 'queue' || last?.attempts === undefined || last.attempts <= receipts.length) continue;
    const endedMs = last.endedAtMs === undefined ? scene.endMs : last.endedAtMs - scene.wallOffsetMs;
    const causes = disturbing(scene, command.device, acceptedFromMs, endedMs).filter(({ blurs }) => blurs);
    if (causes.length === 0) continue;
    const lane = laneOf(command);
    const overMs = Math.max(...causes.map(({ toMs }) => toMs)) + command.timeoutMs;
    until.set(lane, Math.max(until.get(lane) ?? 0, overMs));
  }
  return until;
}

function checkPace(scene: Scene): Violation[] {
  const violations: Violation[] = [];
  const lost = lostBegins(scene);
  for (const lane of lanesOf(scene)) {
    for (const [i, trace] of lane.entries()) {
      const { device, marker } = trace.command;
      const first = firstOf(trace);
      const sessionMs = scene.sockets.get(device)?.find(({ socket }) => socket === first.socket)?.fromMs ?? 0;
      const before = lane.slice(0, i).filter(({ receipts }) => receipts.at(-1)?.socket === first.socket);
      const freeMs = Math.max(sessionMs, ...before.map((each) => occupiedUntilMs(each)));
      const disturbances = disturbing(scene, device, 0, first.atMs);
      const calmMs = Math.max(0, ...disturbances.map(({ toMs }) => toMs));
      const lostMs = lost.get(laneOf(trace.command)) ?? 0;
      const waitedMs = Math.round(first.atMs - Math.max(trace.acceptedByMs, freeMs, calmMs, lostMs));
      if (waitedMs > STALL_MS) {
        const what = `waited ${waitedMs} ms, although its device was there and its lane free`;
        violations.push({ check: 'V4', device, markers: [marker], what });
      }
      const out = before.at(-1);
      const since = out?.receipts.at(-1)?.atMs ?? 0;
      if (
        out !== undefined &&
        first.atMs < freeMs - SLACK_MS &&
        disturbing(scene, device, since, first.atMs).length === 0
      ) {
        const what = `${marker} was sent while ${out.command.marker} of the same lane was out`;
        violations.push({ check: 'V6', device, markers: [out.command.marker, marker], what });
      }
    }
  }
  return violations;
}

function checkIds({ traces }: Scene): Violation[] {
  const violations: Violation[] = [];
  const owners = new Map<string, PlannedCommand>();
  for (const { command, ids } of traces) {
    const { device, marker, key } = command;
    if (key !== undefined && ids.size > 1) {
      violations.push({ check: 'V11', device, markers: [marker], what: `${ids.size} ids for one key` });
    }
    for (const id of ids) {
      const owner = owners.get(id);
      if (owner !== undefined) {
        violations.push({
          check: 'V11',
          device,
          markers: [owner.marker, marker],
          what: `two commands have the id ${id}`,
        });
      }
      owners.set(id, command);
    }
  }
  return violations;
}

/** What disturbed the device, its consequences included, at some time of the span. */
function disturbing({ disturbances }: Scene, device: string, fromMs: number, toMs: number): Disturbance[] {
  return disturbances.filter(
    (each) =>
      each.fromMs <= toMs &&
      each.toMs + RECOVERY_MS >= fromMs &&
      (each.devices === undefined || each.devices.has(device)),
  );
}

function arrange({ commands, entries, wallOffsetMs }: History): Scene {
  const of = <K extends Entry['kind']>(kind: K): EntryOf<K>[] =>
    entries.filter((entry): entry is EntryOf<K> => entry.kind === kind);
  const byMarker = <E extends { readonly marker: string }>(list: readonly E[]): Map<string, E[]> =>
    Map.groupBy(list, ({ marker }) => marker);
  const invoked = byMarker(of('submit.invoke'));
  const accepted = byMarker(of('submit.ok'));
  const failed = byMarker(of('submit.fail'));
  const cancelling = byMarker(of('cancel.invoke'));
  const cancelled = byMarker(of('cancel.ok'));
  const received = byMarker(of('receive'));
  const answered = byMarker(of('answer'));
  const viewed = byMarker(of('view'));
  const endMs = entries.at(-1)?.atMs ?? 0;
  const traces = [...commands.values()].map((command): Trace => {
    const { marker } = command;
    const invokes = invoked.get(marker) ?? [];
    const oks = accepted.get(marker) ?? [];
    const told = oks.flatMap(({ atMs, view }) => (view === undefined ? [] : [{ atMs, view }]));
    const views = [...told, ...(viewed.get(marker) ?? [])].sort((a, b) => a.atMs - b.atMs);
    return {
      command,
      ids: new Set(oks.map(({ id }) => id)),
      acceptedFromMs: invokes[0]?.atMs ?? Number.POSITIVE_INFINITY,
      acceptedByMs: oks[0]?.atMs ?? Number.POSITIVE_INFINITY,
      refused: invokes.length > 0 && (failed.get(marker)?.length ?? 0) === invokes.length,
      cancelling: cancelling.has(marker) || cancelled.has(marker),
      cancelled: cancelled.has(marker),
      receipts: received.get(marker) ?? [],
      answers: answered.get(marker) ?? [],
      views,
      last: views.findLast(({ view }) => view !== undefined)?.view,
    };
  });
  const ends = new Map(of('disturb.end').map((entry) => [entry.disturbance, entry.atMs]));
  const closes = new Map(of('socket.close').map((entry) => [`${entry.device} ${entry.socket}`, entry.atMs]));
  const spans = of('socket.open').map(({ device, socket, atMs }) => ({
    device,
    socket,
    fromMs: atMs,
    toMs: closes.get(`${device} ${socket}`) ?? endMs,
  }));
  return {
    traces,
    disturbances: of('disturb.begin').map(({ disturbance, atMs, what, blurs, devices }) => ({
      fromMs: atMs,
      toMs: ends.get(disturbance) ?? endMs,
      what,
      blurs,
      devices: devices === undefined ? undefined : new Set(devices),
    })),
    sockets: Map.groupBy(spans, ({ device }) => device),
    receipts: of('receive'),
    wallOffsetMs,
    endMs,
  };
}
