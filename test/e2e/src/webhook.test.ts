/** Webhooks against receivers that mean ill, with real processes: slow, failing, hanging, closing, redirecting, answering without end, while the one
 *  command process is killed and another takes over. Whatever was stored arrives everywhere, and nothing reaches what it must not. */

import { createHmac } from 'node:crypto';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { type Broker, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { alarm, Device } from './device.ts';
import { type Setting, startSetting } from './setting.ts';

const EVENTS = 5;
const FORBIDDEN = '127.0.0.2';

type Fault = (response: ServerResponse) => void;

interface Body {
  readonly data: { readonly events: readonly { readonly code: string; readonly data: Alarm }[] };
}
interface Alarm {
  readonly AlarmInfo: { readonly AlarmSeq: number };
}

class Receiver {
  /** Device and AlarmSeq of what was answered with 2xx, or was to be, in that order. */
  readonly taken: string[] = [];
  readonly unsigned: string[] = [];
  secret = '';
  webhook = '';
  open = 0;
  /** Answers nothing. */
  holding = false;
  readonly #fault: Fault;
  #faulty = true;
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('error', () => undefined);
    request.on('end', () => this.#take(request.headers, Buffer.concat(chunks), response));
  });

  constructor(fault: Fault) {
    this.#fault = fault;
  }

  async start(): Promise<this> {
    await listen(this.#server, '127.0.0.1', this.#sockets);
    return this;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #take(headers: NodeJS.Dict<string | string[]>, body: Buffer, response: ServerResponse): void {
    const message = String(headers['webhook-id']);
    const expected = createHmac('sha256', Buffer.from(this.secret.replace('whsec_', ''), 'base64'))
      .update(`${message}.${headers['webhook-timestamp']}.${body.toString()}`)
      .digest('base64');
    if (headers['webhook-signature'] !== `v1,${expected}`) this.unsigned.push(message);
    this.open += 1;
    response.on('close', () => {
      this.open -= 1;
    });
    if (this.holding) return;
    // The first request meets the fault.
    if (this.#faulty) {
      this.#faulty = false;
      this.#fault(response);
      return;
    }
    const { data } = JSON.parse(body.toString()) as Body;
    for (const event of data.events) this.taken.push(`${event.code} ${event.data.AlarmInfo.AlarmSeq}`);
    response.writeHead(204).end();
  }
}

async function listen(server: Server, host: string, sockets: Set<Socket>): Promise<void> {
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
}

/** On all addresses of this machine; nobody may come here. */
const innerSockets = new Set<Socket>();
let visits = 0;
const inner = createTcpServer((socket) => {
  visits += 1;
  socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
});
const innerPort = (): number => (inner.address() as AddressInfo).port;

const faults: Readonly<Record<string, Fault>> = {
  slow: (response) => setTimeout(() => response.writeHead(500).end(), 600),
  failing: (response) => response.writeHead(500).end(),
  hanging: () => undefined,
  closing: (response) => {
    response.writeHead(200, { 'Content-Length': '100' });
    response.write('half', () => response.destroy());
  },
  redirecting: (response) =>
    response.writeHead(302, { Location: `http://${FORBIDDEN}:${innerPort()}/latest/meta-data` }).end(),
  dripping: (response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write('.'), 50);
    response.on('close', () => clearInterval(timer));
  },
};

/** What the log says of the first request to each. */
const OUTCOMES: Readonly<Record<string, number | string>> = {
  slow: 500,
  failing: 500,
  hanging: 'timeout',
  closing: 'closed',
  redirecting: 302,
  dripping: 'timeout',
};

let setting: Setting;
let broker: Broker;
let receivers: ReadonlyMap<string, Receiver>;

beforeAll(async () => {
  await listen(inner, '0.0.0.0', innerSockets);
  const started = Object.entries(faults).map(
    async ([name, fault]) => [name, await new Receiver(fault).start()] as const,
  );
  receivers = new Map(await Promise.all(started));
  const ports = [...receivers.values()].map(({ port }) => port);
  setting = await startSetting({
    edges: 1,
    commands: 1,
    commandEnv: {
      LAPI_WEBHOOK_ALLOW: '127.0.0.1',
      LAPI_WEBHOOK_ALLOW_HTTP: 'true',
      LAPI_WEBHOOK_PORTS: [...ports, innerPort()].join(','),
    },
  });
  broker = setting.broker;
});
afterAll(async () => {
  // The broker first: it must be able to leave while receivers are as they are.
  await setting.stop();
  for (const receiver of receivers.values()) await receiver.stop();
  for (const socket of innerSockets) socket.destroy();
  await new Promise((resolve) => inner.close(resolve));
});

test('what is stored arrives at every receiver, whatever it does and though the process is killed, and nothing is led elsewhere', async () => {
  const devices = await Promise.all([1, 2].map(() => Device.online(broker, { settings: { profile: 'quiet' } })));
  const [first, second] = devices as [Device, Device];
  const filter = { devices: devices.map(({ code }) => code), kinds: ['alarm.*'] };
  const refused = await broker.api('/v1/webhooks', {
    method: 'POST',
    body: { url: `http://${FORBIDDEN}:${innerPort()}/` },
  });
  expect(refused.json()).toMatchObject({ status: 400, code: 'invalid_request' });
  for (const [name, receiver] of receivers) {
    const url = `http://127.0.0.1:${receiver.port}/${name}`;
    const made = await broker.api('/v1/webhooks', { method: 'POST', body: { url, name, filter, timeoutSeconds: 1 } });
    expect(made.status).toBe(201);
    receiver.webhook = String(made.json().id);
    receiver.secret = String(made.json().secret);
  }

  for (let seq = 1; seq <= EVENTS; seq++) await first.notify('Alarm', alarm(seq));
  for (const [name, outcome] of Object.entries(OUTCOMES)) {
    const { webhook } = receivers.get(name) as Receiver;
    const item = await waitFor(
      async () => {
        const answer = await broker.api(`/v1/webhooks/${webhook}/deliveries`);
        const items = answer.json().items as { status?: number; error?: string }[];
        return items.at(-1);
      },
      { deadlineMs: 20_000, what: `a request to the ${name} receiver` },
    );
    expect([name, item.status ?? item.error]).toEqual([name, outcome]);
  }

  for (const receiver of receivers.values()) receiver.holding = true;
  for (let seq = 1; seq <= EVENTS; seq++) await second.notify('Alarm', alarm(seq));
  await waitFor(() => [...receivers.values()].every(({ open }) => open > 0), {
    deadlineMs: 20_000,
    what: 'a request on its way to each receiver',
  });
  await broker.commands[0]?.kill();
  for (const receiver of receivers.values()) receiver.holding = false;
  await broker.addCommand();

  for (const [name, receiver] of receivers) {
    await waitFor(() => new Set(receiver.taken).size === 2 * EVENTS, {
      deadlineMs: 60_000,
      what: `all events at the ${name} receiver`,
    });
    // Ordered: what comes again comes before what is behind it.
    for (const { code } of devices) {
      const taken = [...new Set(receiver.taken.filter((each) => each.startsWith(code)))];
      expect(taken).toEqual(Array.from({ length: EVENTS }, (_, i) => `${code} ${i + 1}`));
    }
    expect(receiver.unsigned).toEqual([]);
  }
  expect(visits).toBe(0);
}, 120_000);
