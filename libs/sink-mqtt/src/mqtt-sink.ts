/** Publishes to an MQTT 5 broker with QoS 1: what it has acknowledged is confirmed, nothing else.
 *
 *  Never retained. The id of a message is a user property, because MQTT itself drops no repeats. No more messages are under way than the
 *  broker allows (Receive Maximum); the others wait here for their turn. A broker acknowledges what nobody subscribes to as well.
 *  The library's own reconnecting is off: it would send again what was given up. */

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import {
  type Address,
  MQTT_URL,
  parseAddress,
  parseSinkUrl,
  SINK_DEADLINES,
  type Sink,
  type SinkConnection,
  type SinkDeadlines,
  type SinkMessage,
  type SinkResult,
} from '@lapi-broker/sink';
import mqtt, { type IClientOptions, type IConnackPacket, type MqttClient } from 'mqtt';

export interface MqttSinkOptions {
  readonly url: string;
  /** Template of the topic. */
  readonly topic: string;
  /** PEM files, read at each connect. */
  readonly caFile?: string | undefined;
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  readonly deadlines?: SinkDeadlines | undefined;
}

const KEEPALIVE_S = 15;
/** Topic and properties around a message. */
const ENVELOPE_BYTES = 512;
/** Reason codes of MQTT 5. */
const NOT_AUTHORIZED = 0x87;
const PACKET_TOO_LARGE = 0x95;
const QUOTA_EXCEEDED = 0x97;

/** Connects to nothing yet. Throws RangeError for a URL or template that is none. */
export function openMqttSink(options: MqttSinkOptions): Sink {
  const { scheme, hosts, username, password } = parseSinkUrl(options.url, MQTT_URL);
  const address = parseAddress(options.topic, '/');
  const deadlines = options.deadlines ?? SINK_DEADLINES;
  const fixed: IClientOptions = {
    protocolVersion: 5,
    clean: true,
    reconnectPeriod: 0,
    resubscribe: false,
    connectTimeout: deadlines.connectMs,
    keepalive: KEEPALIVE_S,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
  };
  const { caFile, certFile, keyFile } = options;
  return {
    connect() {
      const client = mqtt.connect(`${scheme}://${hosts[0]}`, {
        ...fixed,
        clientId: `lapi-${randomBytes(8).toString('hex')}`,
        ...(caFile === undefined ? {} : { ca: readFileSync(caFile) }),
        ...(certFile === undefined ? {} : { cert: readFileSync(certFile) }),
        ...(keyFile === undefined ? {} : { key: readFileSync(keyFile) }),
      });
      return connected(client, address, deadlines);
    },
  };
}

function connected(client: MqttClient, address: Address, deadlines: SinkDeadlines): Promise<SinkConnection> {
  let reason = 'connection closed';
  const lost = new Promise<string>((resolve) => {
    client.on('error', (error) => {
      reason = toText(error);
      // After some errors, such as an answer that it cannot read, the library would wait for ever.
      client.end(true);
    });
    client.on('disconnect', ({ reasonCode }) => {
      reason = `the broker disconnected us (reason code ${reasonCode ?? 0})`;
    });
    client.once('close', () => resolve(reason));
  });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => fail('no answer in time'), deadlines.connectMs);
    const fail = (why: string): void => {
      clearTimeout(timer);
      client.end(true);
      reject(new Error(why));
    };
    void lost.then(fail);
    client.once('connect', ({ properties }) => {
      clearTimeout(timer);
      if (properties?.maximumQoS === 0) fail('the broker takes no QoS 1, so it confirms nothing');
      else resolve(new MqttConnection({ client, address, lost, properties, publishMs: deadlines.publishMs }));
    });
  });
}

interface MqttConnectionParts {
  readonly client: MqttClient;
  readonly address: Address;
  readonly lost: Promise<string>;
  readonly properties: IConnackPacket['properties'];
  readonly publishMs: number;
}

class MqttConnection implements SinkConnection {
  readonly lost: Promise<string>;
  readonly #parts: MqttConnectionParts;
  readonly #largest: number;
  /** How many more the broker takes before it has confirmed some. */
  #free: number;
  /** Both bounded by what the caller has under way. */
  readonly #queue: (() => void)[] = [];
  readonly #pending = new Set<(reason: string) => void>();
  #lostBecause: string | undefined;

  constructor(parts: MqttConnectionParts) {
    this.#parts = parts;
    this.#largest = (parts.properties?.maximumPacketSize ?? Number.POSITIVE_INFINITY) - ENVELOPE_BYTES;
    this.#free = parts.properties?.receiveMaximum ?? 65_535;
    this.lost = parts.lost.then((reason) => {
      this.#lostBecause = reason;
      for (const giveUp of this.#pending) giveUp(reason);
      return reason;
    });
  }

  publish(messages: readonly SinkMessage[]): Promise<readonly SinkResult[]> {
    return Promise.all(messages.map((message) => this.#publish(message)));
  }

  async close(): Promise<void> {
    // Ends what is under way as well; a broker that does not listen is not waited for.
    this.#parts.client.end(true);
    await this.lost;
  }

  async #publish(message: SinkMessage): Promise<SinkResult> {
    if (message.json.length > this.#largest) {
      return { status: 'too_large', reason: `the broker takes ${this.#largest} bytes` };
    }
    // Given to it now, the library would keep it for a connection that never comes.
    if (this.#lostBecause !== undefined) return { status: 'unconfirmed', reason: this.#lostBecause };
    return await new Promise((resolve) => {
      const settle = (result: SinkResult): void => {
        clearTimeout(timer);
        this.#pending.delete(giveUp);
        resolve(result);
      };
      const giveUp = (reason: string): void => settle({ status: 'unconfirmed', reason });
      const timer = setTimeout(giveUp, this.#parts.publishMs, 'not confirmed in time');
      this.#pending.add(giveUp);
      this.#queue.push(() => {
        if (this.#pending.has(giveUp)) this.#send(message, settle);
      });
      this.#sendNext();
    });
  }

  #sendNext(): void {
    while (this.#free > 0) {
      const send = this.#queue.shift();
      if (send === undefined) return;
      send();
    }
  }

  #send({ id, type, code, kind, json }: SinkMessage, settle: (result: SinkResult) => void): void {
    const { client, address } = this.#parts;
    this.#free -= 1;
    client.publish(
      address.of({ code, kind }),
      Buffer.from(json.buffer, json.byteOffset, json.byteLength),
      {
        qos: 1,
        retain: false,
        properties: { payloadFormatIndicator: true, contentType: 'application/json', userProperties: { id, type } },
      },
      (error) => {
        settle(error instanceof Error ? judge(error) : { status: 'confirmed' });
        this.#free += 1;
        this.#sendNext();
      },
    );
  }
}

/** Only an answer of the broker has a code that is a number; everything else leaves open what happened. */
function judge(error: Error & { readonly code?: unknown }): SinkResult {
  const reason = toText(error);
  switch (error.code) {
    case PACKET_TOO_LARGE:
      return { status: 'too_large', reason };
    case NOT_AUTHORIZED:
    case QUOTA_EXCEEDED:
      return { status: 'unavailable', reason };
    default:
      return { status: typeof error.code === 'number' ? 'refused' : 'unconfirmed', reason };
  }
}

/** The message of a connection that was refused on several addresses is in its parts. */
function toText(error: Error): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(String).join(', ');
  return error.message;
}
