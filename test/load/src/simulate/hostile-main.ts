/** Peers that do what no healthy one does, as a process: devices that never read, trickle or flood, callers that go away without saying so, a
 *  webhook receiver that takes a request and never answers. Bare sockets; each knows whether its connection still stands, as far as a peer that
 *  does not read can know. */

import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { answerAs } from '../worker/verbs.ts';
import { type DeviceIdentity, firstRequest, KEEPALIVE, nonceIn, signedRequest, textFrame } from './dialect.ts';
import { NotificationTemplate } from './notification.ts';

/** deaf: reads nothing once it is in. trickle: one byte of a message per second. events: alarms without waiting for answers. pings: ping frames.
 *  Floods take all that the connection takes. Whoever is closed comes back, whatever it is told. */
export type Habit = 'deaf' | 'trickle' | 'events' | 'pings';

export interface HostileDevices {
  readonly group: string;
  readonly port: number;
  readonly devices: readonly DeviceIdentity[];
  readonly habit: Habit;
}

export interface HostileCallers {
  readonly group: string;
  readonly port: number;
  /** What each writes at once, each in turn. */
  readonly requests: readonly string[];
  /** Then one byte of this per second. */
  readonly drip?: string;
  readonly count: number;
}

export interface HostileTally {
  readonly standing: number;
  /** Connections of devices that got in; of callers all that were opened. */
  readonly opened: number;
  readonly closed: number;
}

const HEAD_END = '\r\n\r\n';
const RETURN_MS = 250;
const DRIP_MS = 1_000;
/** One writing of a flood: so small that a slow machine is not flooded by its own memory. */
const FLOOD_BYTES = 64 * 1024;
const EVENT_BYTES = 1_000;
/** A masked ping without content. */
const PING = Buffer.from([0x89, 0x80, 0, 0, 0, 0]);
const MESSAGE = textFrame(JSON.stringify({ RequestURL: '/LAPI/V1.0/System/Trickle', Text: 'x'.repeat(1_000) }));

class Group {
  opened = 0;
  closed = 0;
  readonly sockets = new Set<Socket>();
  readonly timers = new Set<NodeJS.Timeout>();
  over: boolean = false;

  connect(port: number): Socket {
    const socket = createConnection({ port, host: '127.0.0.1', noDelay: true });
    this.sockets.add(socket);
    socket.on('error', () => undefined); // `close` follows.
    socket.once('close', () => {
      this.sockets.delete(socket);
      this.closed++;
    });
    return socket;
  }

  later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      work();
    }, ms);
    this.timers.add(timer);
  }

  end(): void {
    this.over = true;
    for (const timer of this.timers) clearTimeout(timer);
    for (const socket of this.sockets) socket.resetAndDestroy();
  }
}

const groups = new Map<string, Group>();
let receiver: Server | undefined;

function newGroup(name: string): Group {
  const group = new Group();
  groups.set(name, group);
  return group;
}

/** Resolves when each has been in or was refused once. */
async function devices({ group: name, port, devices: all, habit }: HostileDevices): Promise<void> {
  const group = newGroup(name);
  await Promise.all(all.map((identity) => new Promise<void>((tried) => live(group, port, identity, habit, tried))));
}

function live(group: Group, port: number, identity: DeviceIdentity, habit: Habit, tried: () => void): void {
  const socket = group.connect(port);
  let text = '';
  let signed = false;
  let isIn = false;
  socket.once('connect', () => socket.write(firstRequest('lapi', identity), 'latin1'));
  socket.on('data', (bytes) => {
    if (isIn) return;
    text += bytes.toString('latin1');
    if (!text.includes(HEAD_END)) return;
    const nonce = signed ? undefined : nonceIn(text);
    if (nonce !== undefined) {
      text = '';
      signed = true;
      socket.write(signedRequest(identity, nonce), 'latin1');
    } else if (Number(text.slice(9, 12)) === 101) {
      isIn = true;
      group.opened++;
      behave(group, socket, habit);
      tried();
    } else if (signed) socket.destroy();
  });
  socket.once('close', () => {
    tried();
    if (!group.over) group.later(RETURN_MS, () => live(group, port, identity, habit, tried));
  });
}

function behave(group: Group, socket: Socket, habit: Habit): void {
  switch (habit) {
    case 'deaf':
      // Its keepalives show that it lives, and whether the connection still stands.
      socket.pause();
      repeat(group, socket, () => KEEPALIVE);
      break;
    case 'trickle': {
      let at = -1;
      repeat(group, socket, () => {
        at = (at + 1) % MESSAGE.length;
        return MESSAGE.subarray(at, at + 1);
      });
      break;
    }
    case 'pings':
      flood(socket, Buffer.alloc(FLOOD_BYTES - (FLOOD_BYTES % PING.length), PING));
      break;
    case 'events': {
      const template = new NotificationTemplate({ kind: 'alarm', bytes: EVENT_BYTES });
      const frames = Array.from({ length: Math.floor(FLOOD_BYTES / EVENT_BYTES) }, (_, i) => template.frame(i + 1));
      flood(socket, Buffer.concat(frames.flat()));
    }
  }
}

function repeat(group: Group, socket: Socket, next: () => Buffer): void {
  if (socket.destroyed) return;
  if (socket.writableLength === 0) socket.write(next());
  group.later(DRIP_MS, () => repeat(group, socket, next));
}

function flood(socket: Socket, bytes: Buffer): void {
  socket.write(bytes, () => {
    // The other callbacks of this process have their turn.
    if (!socket.destroyed) setImmediate(() => flood(socket, bytes));
  });
}

/** Callers that never read. */
function callers({ group: name, port, requests, drip, count }: HostileCallers): void {
  const group = newGroup(name);
  for (let i = 0; i < count; i++) {
    const socket = group.connect(port);
    socket.pause();
    group.opened++;
    socket.once('connect', () => {
      socket.write(requests[i % requests.length] as string, 'latin1');
      if (drip !== undefined) repeat(group, socket, () => Buffer.from(drip));
    });
  }
}

/** A receiver of webhooks that answers nothing. */
function receive({ group: name, port }: { readonly group: string; readonly port: number }): Promise<void> {
  const group = newGroup(name);
  const server = createServer((socket) => {
    group.opened++;
    group.sockets.add(socket);
    socket.on('error', () => undefined); // `close` follows.
    socket.once('close', () => {
      group.sockets.delete(socket);
      group.closed++;
    });
    socket.resume();
  });
  receiver = server;
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
}

function tally(name: string): HostileTally {
  const group = groups.get(name);
  if (group === undefined) throw new RangeError(`no group ${name}`);
  const { sockets, opened, closed } = group;
  return { standing: sockets.size, opened, closed };
}

function leave(name: string): void {
  groups.get(name)?.end();
  groups.delete(name);
  receiver?.close();
  receiver = undefined;
}

const verbs = { devices, callers, receive, tally, leave };
export type HostileVerbs = typeof verbs;

answerAs(verbs);
