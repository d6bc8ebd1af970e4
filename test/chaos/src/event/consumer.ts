/** Consumers of a durable subscription, as programs of a platform are: one that pulls over HTTP and one on the WebSocket. Each asks the service
 *  it was given first and the next one when that does not answer; acknowledges what it gets, and now and then forgets to. When nobody
 *  answered an acknowledgement it asks again, or gives up. They write down what they got before they acknowledge it. */

import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import type { Chance } from '../random.ts';
import { type ReceivedDelivery, readDeliveries } from './delivery.ts';
import type { EventRecorder } from './history.ts';

export interface ConsumerOptions {
  readonly subscription: string;
  readonly by: string;
  /** HTTP URLs of the command services. */
  readonly urls: readonly string[];
  readonly firstUrl: number;
  readonly apiKey: string;
  /** Of an event to be forgotten by its consumer. */
  readonly forgets: number;
  readonly recorder: Pick<EventRecorder, 'log'>;
  readonly chance: Chance;
}

export interface Consumer {
  start(): void;
  /** Resolves when it takes nothing any more; what it has got is acknowledged before. */
  stop(): Promise<void>;
}

const BATCH = 64;
const WAIT_SECONDS = 2;
const CALL_MS = 8_000;
const PAUSE_MS = 150;
/** Work on what was pulled, at most: so that something is out whenever a process dies. */
const WORK_MS = 30;
const ACK_TRIES = 40;
/** After an acknowledgement that nobody answered, like a program that dies with its service. */
const GIVES_UP = 0.5;
const LAST_ANSWERS_MS = 2_000;

/** Writes down what was received; answers what is to be acknowledged, by ack id. */
function take(
  { subscription: reader, by, recorder, chance, forgets }: ConsumerOptions,
  deliveries: readonly ReceivedDelivery[],
): Map<string, string | undefined> {
  const open = new Map<string, string | undefined>();
  for (const { ackId, attempt, event, gap } of deliveries) {
    if (gap !== undefined) recorder.log({ kind: 'gap', reader, by, ...gap, reason: 'trimmed' });
    if (event !== undefined) recorder.log({ kind: 'receive', reader, by, ...event, attempt });
    if (!chance.is(forgets)) open.set(ackId, event?.id);
  }
  return open;
}

function ask({ subscription: reader, recorder }: ConsumerOptions, ids: Iterable<string | undefined>): void {
  for (const id of ids) if (id !== undefined) recorder.log({ kind: 'settle', reader, id });
}

function tell(
  { subscription: reader, recorder }: ConsumerOptions,
  ids: readonly (string | undefined)[],
  results: readonly string[],
): void {
  for (const [i, id] of ids.entries()) {
    const result = results[i];
    if (id !== undefined && result !== undefined) recorder.log({ kind: 'settled', reader, id, result });
  }
}

export class PullConsumer implements Consumer {
  readonly #options: ConsumerOptions;
  #url: number;
  #stopped = false;
  #running: Promise<void> | undefined;

  constructor(options: ConsumerOptions) {
    this.#options = options;
    this.#url = options.firstUrl;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const text = await this.#ask('pull', { max: BATCH, waitSeconds: WAIT_SECONDS });
      if (text === undefined) continue;
      const open = take(this.#options, readDeliveries(text));
      if (open.size === 0) continue;
      await sleep(this.#options.chance.between(0, WORK_MS));
      await this.#acknowledge(open);
    }
  }

  async #acknowledge(open: ReadonlyMap<string, string | undefined>): Promise<void> {
    ask(this.#options, open.values());
    for (let tried = 0; tried < ACK_TRIES; tried++) {
      const text = await this.#ask('ack', { ackIds: [...open.keys()] });
      if (text === undefined && this.#options.chance.is(GIVES_UP)) return;
      if (text === undefined) continue;
      const { results } = JSON.parse(text) as { readonly results: readonly string[] };
      tell(this.#options, [...open.values()], results);
      return;
    }
  }

  /** Undefined when nobody answered with 200; the next service is asked then. */
  async #ask(verb: 'pull' | 'ack', body: unknown): Promise<string | undefined> {
    const { urls, subscription, apiKey } = this.#options;
    try {
      const response = await fetch(`${urls[this.#url]}/v1/subscriptions/${subscription}/${verb}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(CALL_MS),
      });
      const text = await response.text();
      if (response.status === 200) return text;
    } catch {
      // The service is away, or its answer is.
    }
    this.#url = (this.#url + 1) % urls.length;
    await sleep(PAUSE_MS);
    return undefined;
  }
}

export class SocketConsumer implements Consumer {
  readonly #options: ConsumerOptions;
  #url: number;
  #socket: WebSocket | undefined;
  /** Asked for and not answered, in their order. */
  #asked: (readonly (readonly [ackId: string, id: string | undefined])[])[] = [];
  #retry: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: ConsumerOptions) {
    this.#options = options;
    this.#url = options.firstUrl;
  }

  start(): void {
    if (this.#stopped || this.#socket !== undefined) return;
    const { urls, apiKey, subscription } = this.#options;
    const url = `${urls[this.#url]?.replace(/^http/, 'ws')}/v1/stream`;
    const socket = new WebSocket(url, { headers: { authorization: `Bearer ${apiKey}` }, handshakeTimeout: CALL_MS });
    this.#socket = socket;
    // Every error is followed by a close.
    socket.on('error', () => undefined);
    socket.once('open', () => {
      socket.send(JSON.stringify({ type: 'consume', id: 'c', subscription, maxInFlight: BATCH }));
    });
    socket.on('message', (bytes: Buffer) => this.#hear(bytes.toString()));
    socket.once('close', () => {
      this.#socket = undefined;
      this.#url = (this.#url + 1) % urls.length;
      if (!this.#stopped) this.#retry = setTimeout(() => this.start(), PAUSE_MS);
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    for (let waited = 0; waited < LAST_ANSWERS_MS && this.#asked.length > 0; waited += PAUSE_MS) await sleep(PAUSE_MS);
    const socket = this.#socket;
    if (socket === undefined) return;
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    socket.terminate();
    await closed;
  }

  #hear(text: string): void {
    const message = JSON.parse(text) as { readonly type: string; readonly results?: readonly string[] };
    if (message.type === 'consuming') {
      const unanswered = this.#asked;
      this.#asked = [];
      for (const asked of unanswered) if (!this.#options.chance.is(GIVES_UP)) this.#ask(asked);
    } else if (message.type === 'delivery' && !this.#stopped) {
      const open = take(this.#options, readDeliveries(text));
      if (open.size > 0) this.#ask([...open]);
    } else if (message.type === 'settled') {
      const asked = this.#asked.shift() ?? [];
      tell(
        this.#options,
        asked.map(([, id]) => id),
        message.results ?? [],
      );
    } else if (message.type === 'error' || message.type === 'unsubscribed') {
      // The store is away; a new socket asks all of it again. No farewell: what is on its way comes again by its deadline.
      this.#socket?.terminate();
    }
  }

  #ask(asked: readonly (readonly [string, string | undefined])[]): void {
    this.#asked.push(asked);
    ask(this.#options, new Map(asked).values());
    const ackIds = asked.map(([ackId]) => ackId);
    this.#socket?.send(JSON.stringify({ type: 'ack', id: 'c', ackIds }));
  }
}
