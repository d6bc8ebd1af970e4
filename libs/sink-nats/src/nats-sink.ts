/** Publishes to NATS JetStream: what a stream has acknowledged is confirmed, nothing else.
 *
 *  Every message carries `Nats-Msg-Id`, so the stream itself drops repeats that come within its duplicate window. No stream is made unless
 *  asked for; where none takes the subject, the server answers so at once and the result is `unavailable`.
 *  The library's own reconnecting is off: what it buffers would be sent after we gave it up. */

import { readFileSync } from 'node:fs';
import {
  type Address,
  NATS_URL,
  parseAddress,
  parseSinkUrl,
  SINK_DEADLINES,
  type Sink,
  type SinkConnection,
  type SinkDeadlines,
  type SinkMessage,
  type SinkResult,
} from '@lapi-broker/sink';
import { JetStreamApiCodes, JetStreamApiError, type JetStreamClient, jetstream } from '@nats-io/jetstream';
import {
  type ConnectionOptions,
  connect,
  credsAuthenticator,
  errors,
  headers,
  type NatsConnection,
  nanos,
} from '@nats-io/transport-node';

export interface NatsSinkOptions {
  readonly url: string;
  /** Template of the subject. */
  readonly subject: string;
  /** A `.creds` file (NKey and JWT), read at each connect. */
  readonly credentialsFile?: string | undefined;
  /** PEM files. */
  readonly caFile?: string | undefined;
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  /** Made where it does not exist: of all subjects of the template, in files, for a day. One that exists is left as it is. */
  readonly createStream?: string | undefined;
  readonly deadlines?: SinkDeadlines | undefined;
}

const PING_MS = 10_000;
/** Headers and protocol words around a message; the server counts the headers. */
const ENVELOPE_BYTES = 512;
const STREAM_AGE_MS = 86_400_000;
const DUPLICATE_WINDOW_MS = 600_000;
/** "message size exceeds maximum allowed" of a stream. */
const STREAM_MESSAGE_TOO_LARGE = 10_054;

/** Connects to nothing yet. Throws RangeError for a URL or template that is none. */
export function openNatsSink(options: NatsSinkOptions): Sink {
  const { hosts, scheme, username, password } = parseSinkUrl(options.url, NATS_URL);
  const address = parseAddress(options.subject, '.');
  const deadlines = options.deadlines ?? SINK_DEADLINES;
  const { caFile, certFile, keyFile, credentialsFile } = options;
  const fixed: ConnectionOptions = {
    servers: [...hosts],
    name: 'lapi-broker',
    reconnect: false,
    timeout: deadlines.connectMs,
    pingInterval: PING_MS,
    maxPingOut: 2,
    ...(password !== undefined
      ? { user: username ?? '', pass: password }
      : username !== undefined
        ? { token: username }
        : {}),
    ...(scheme === 'tls' || caFile !== undefined || certFile !== undefined
      ? { tls: { ...(caFile && { caFile }), ...(certFile && { certFile }), ...(keyFile && { keyFile }) } }
      : {}),
  };
  return {
    async connect() {
      const nats = await connect({
        ...fixed,
        ...(credentialsFile === undefined ? {} : { authenticator: credsAuthenticator(readFileSync(credentialsFile)) }),
      });
      const client = jetstream(nats, { timeout: deadlines.publishMs });
      try {
        if (options.createStream !== undefined) await ensureStream(client, options.createStream, address);
      } catch (error) {
        await nats.close();
        throw error;
      }
      return new NatsConnectionOfSink(nats, client, address, deadlines.publishMs);
    },
  };
}

async function ensureStream(client: JetStreamClient, name: string, { prefix, of }: Address): Promise<void> {
  const { streams } = await client.jetstreamManager(false);
  try {
    await streams.info(name);
  } catch (error) {
    if (!(error instanceof JetStreamApiError && error.code === JetStreamApiCodes.StreamNotFound)) throw error;
    const sample = of({ code: 'a', kind: 'b' });
    const subject = sample === prefix ? sample : prefix === '' ? '>' : `${prefix}.>`;
    // Two processes may make it at once: the same settings, so the second is told that it is there.
    await streams.add({
      name,
      subjects: [subject],
      max_age: nanos(STREAM_AGE_MS),
      duplicate_window: nanos(DUPLICATE_WINDOW_MS),
    });
  }
}

class NatsConnectionOfSink implements SinkConnection {
  readonly lost: Promise<string>;
  readonly #nats: NatsConnection;
  readonly #client: JetStreamClient;
  readonly #address: Address;
  readonly #publishMs: number;
  #closed: Promise<void> | undefined;

  constructor(nats: NatsConnection, client: JetStreamClient, address: Address, publishMs: number) {
    this.#nats = nats;
    this.#client = client;
    this.#address = address;
    this.#publishMs = publishMs;
    this.lost = nats.closed().then((error) => (error instanceof Error ? error.message : 'connection closed'));
  }

  publish(messages: readonly SinkMessage[]): Promise<readonly SinkResult[]> {
    return Promise.all(messages.map((message) => this.#publish(message)));
  }

  close(): Promise<void> {
    this.#closed ??= this.#nats.close().catch(() => undefined);
    return this.#closed;
  }

  async #publish(message: SinkMessage): Promise<SinkResult> {
    const { id, type, json } = message;
    const limit = (this.#nats.info?.max_payload ?? Number.POSITIVE_INFINITY) - ENVELOPE_BYTES;
    if (json.length > limit) return { status: 'too_large', reason: `the server takes ${limit} bytes` };
    const told = headers();
    told.set('Content-Type', 'application/json');
    told.set('Lapi-Type', type);
    try {
      await this.#client.publish(this.#address.of(message), json, {
        msgID: id,
        headers: told,
        timeout: this.#publishMs,
      });
      return { status: 'confirmed' };
    } catch (error) {
      return judge(error, this.#address.prefix);
    }
  }
}

function judge(error: unknown, prefix: string): SinkResult {
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  if (cause instanceof errors.PermissionViolationError) return { status: 'unavailable', reason: cause.message };
  if (cause instanceof errors.RequestError && cause.isNoResponders()) {
    return {
      status: 'unavailable',
      reason: `no JetStream stream takes the subjects under ${prefix === '' ? '>' : prefix}`,
    };
  }
  if (error instanceof JetStreamApiError) {
    const reason = `${error.message} (${error.code})`;
    if (error.code === STREAM_MESSAGE_TOO_LARGE) return { status: 'too_large', reason };
    return { status: error.status >= 500 ? 'unavailable' : 'refused', reason };
  }
  return { status: 'unconfirmed', reason: error instanceof Error ? error.message : String(error) };
}
