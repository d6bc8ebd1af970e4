/** Subscribers of live events as a process. They look for the marks of simulated devices in the bytes that come, count them, and take the
 *  time; nothing is parsed, because a client library would cost more than the broker that is to be measured. */

import { randomBytes } from 'node:crypto';
import { createConnection, type Socket } from 'node:net';
import { percentile } from '../measure/spread.ts';
import { answerAs } from '../worker/verbs.ts';
import { textFrame } from './dialect.ts';
import { nowUs, SENT_MARK } from './notification.ts';

export interface ListenPlan {
  /** Names these subscribers in later questions. */
  readonly group: string;
  readonly port: number;
  /** Header lines, each with its line end. */
  readonly headers: string;
  readonly transport: 'sse' | 'websocket';
  readonly count: number;
  /** They read nothing once they are greeted. */
  readonly deaf?: boolean;
  /** Of these devices only; may hold `*`. */
  readonly devices?: string;
}

export interface ListenTally {
  /** Of the subscriber that got least and of the one that got most. */
  readonly least: number;
  readonly most: number;
  /** Told to the first subscriber in gaps. */
  readonly missed: number;
  /** Times that the first subscriber was cut off for slowness, and went on from its cursor. */
  readonly resumed: number;
  /** Connections that have ended for good. */
  readonly ended: number;
}

/** From the sending of the device to here, over what the first subscriber has received. */
export interface ListenLatency {
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const READ_BYTES = 256 * 1024;
const MARK = Buffer.from(SENT_MARK);
/** In gaps only: the events of simulated devices have no such member. */
const MISSED_MARK = Buffer.from(',"count":');
/** A mark and its digits fit. */
const CARRIED_BYTES = MARK.length + 20;
/** The last message of a stream fits. */
const ENDING = 1_024;
const MAX_SAMPLES = 2_000_000;
/** A WebSocket from which nothing comes for a minute is closed: also one that reads nothing lives. */
const LIFE = textFrame('{"type":"ping"}');
const LIFE_MS = 10_000;
const COMMA = 0x2c;
const DIGIT_0 = 0x30;

class Listener {
  events = 0;
  missed = 0;
  /** Times that it was cut off with a cursor, and came back with it. */
  resumed = 0;
  ended: boolean = false;
  readonly takenMs: number[] = [];
  private readonly plan: ListenPlan;
  private readonly isTimed: boolean;
  private readonly onGreeted: () => void;
  private socket: Socket;
  private carried: Buffer = Buffer.alloc(0);
  /** Of what has come last. */
  private ending = '';
  private isGreeted: boolean = false;
  private readonly life: NodeJS.Timeout | undefined;

  constructor(plan: ListenPlan, isTimed: boolean, onGreeted: () => void) {
    this.plan = plan;
    this.isTimed = isTimed;
    this.onGreeted = onGreeted;
    this.socket = this.connect('');
    if (plan.transport === 'websocket') this.life = setInterval(() => this.socket.write(LIFE), LIFE_MS);
  }

  close(): void {
    this.ended = true;
    clearInterval(this.life);
    this.socket.destroy();
  }

  /** `resume`: a header line, or nothing. */
  private connect(resume: string): Socket {
    const { plan } = this;
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    const socket = createConnection({
      port: plan.port,
      host: '127.0.0.1',
      onread: {
        buffer,
        callback: (length) => {
          this.read(buffer.subarray(0, length));
          return plan.deaf !== true || !this.isGreeted;
        },
      },
    });
    socket.on('error', () => undefined); // `close` follows.
    socket.on('close', () => this.over());
    const lines = ['Host: 127.0.0.1', plan.headers.trimEnd()];
    if (plan.transport === 'sse') {
      const query = plan.devices === undefined ? '' : `?device=${plan.devices}`;
      socket.write(`GET /v1/events${query} HTTP/1.1\r\n${lines.join('\r\n')}\r\n${resume}\r\n`);
      return socket;
    }
    const key = randomBytes(16).toString('base64');
    lines.push('Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', `Sec-WebSocket-Key: ${key}`);
    socket.write(`GET /v1/stream HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
    return socket;
  }

  private read(bytes: Buffer): void {
    const { plan } = this;
    const { transport } = plan;
    // Not before: what comes with the request is lost while the key is looked up.
    if (transport === 'websocket' && bytes.includes('HTTP/1.1 101')) this.socket.write(subscribeFrame(plan));
    if (!this.isGreeted && bytes.includes(transport === 'sse' ? 'id: ' : '"subscribed"')) {
      this.isGreeted = true;
      this.onGreeted();
    }
    this.scan(bytes);
    if (this.isTimed)
      this.ending = (this.ending + bytes.toString('latin1', Math.max(0, bytes.length - ENDING))).slice(-ENDING);
  }

  private over(): void {
    const cursor = /id: (\S+)\nevent: closed/.exec(this.ending)?.[1];
    this.ended ||= cursor === undefined;
    if (this.ended) {
      clearInterval(this.life);
      return;
    }
    this.resumed += 1;
    this.carried = Buffer.alloc(0);
    this.ending = '';
    this.socket = this.connect(`Last-Event-ID: ${cursor}\r\n`);
  }

  private scan(bytes: Buffer): void {
    const all = this.carried.length === 0 ? bytes : Buffer.concat([this.carried, bytes]);
    let done = each(all, MARK, (sentUs) => {
      this.events += 1;
      if (this.isTimed && this.takenMs.length < MAX_SAMPLES) this.takenMs.push((nowUs() - sentUs) / 1_000);
    });
    if (this.isTimed) {
      done = Math.max(
        done,
        each(all, MISSED_MARK, (count) => {
          this.missed += count;
        }),
      );
    }
    this.carried = Buffer.from(all.subarray(Math.max(done, all.length - CARRIED_BYTES)));
  }
}

function subscribeFrame({ devices }: ListenPlan): Buffer {
  const filter = devices === undefined ? {} : { filter: { devices: [devices] } };
  return textFrame(JSON.stringify({ type: 'subscribe', id: 's', ...filter }));
}

/** Calls back with the number behind each mark; answers the end of the last one that is whole. */
function each(all: Buffer, mark: Buffer, callBack: (value: number) => void): number {
  let done = 0;
  for (let at = all.indexOf(mark, done); at >= 0; at = all.indexOf(mark, done)) {
    const end = all.indexOf(COMMA, at + mark.length);
    if (end < 0) break;
    let value = 0;
    for (let i = at + mark.length; i < end; i++) value = value * 10 + ((all[i] as number) - DIGIT_0);
    callBack(value);
    done = end;
  }
  return done;
}

const groups = new Map<string, Listener[]>();

function groupOf(name: string): Listener[] {
  const group = groups.get(name);
  if (group === undefined) throw new RangeError(`no group ${name}`);
  return group;
}

/** Resolves when all are greeted. */
async function listen(plan: ListenPlan): Promise<void> {
  const known = groups.get(plan.group) ?? [];
  groups.set(plan.group, known);
  await Promise.all(
    Array.from(
      { length: plan.count },
      (_, i) =>
        new Promise<void>((resolve) => {
          known.push(new Listener(plan, known.length === 0 && i === 0, resolve));
        }),
    ),
  );
}

function tally(name: string): ListenTally {
  const group = groupOf(name);
  const counts = group.map(({ events }) => events);
  return {
    least: Math.min(...counts),
    most: Math.max(...counts),
    missed: group[0]?.missed ?? 0,
    resumed: group[0]?.resumed ?? 0,
    ended: group.filter(({ ended }) => ended).length,
  };
}

/** Of what has come since this was asked last. */
function latency(name: string): ListenLatency {
  const taken = Float64Array.from(groupOf(name)[0]?.takenMs.splice(0) ?? []).sort();
  return { p50Ms: percentile(taken, 0.5), p99Ms: percentile(taken, 0.99) };
}

function leave(name: string): void {
  for (const listener of groupOf(name)) listener.close();
  groups.delete(name);
}

const verbs = { listen, tally, latency, leave };
export type ListenerVerbs = typeof verbs;

answerAs(verbs);
