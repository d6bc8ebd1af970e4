/** A device of bytes with a memory: provisioned once, registered as often as a story needs, able to answer calls by itself.
 *  The connection stays visible as `wire`, for stories about single frames. Written from the protocol; knows no package of the broker.
 *  Every device is closed by `closeDevices`, which a file calls before it stops its broker. */

import { randomBytes, randomInt } from 'node:crypto';
import { type Broker, waitFor } from '@lapi-broker/fixture';
import { type Frame, type Identity, Wire } from './wire.ts';

export const KEEPALIVE = '/LAPI/V1.0/System/UpServer/Keepalive';
export const UNREGISTER = '/LAPI/V1.0/System/UpServer/Unregister';
export const SUBSCRIPTION = '/LAPI/V1.0/System/Event/Subscription';
export const DEVICE_INFO = '/LAPI/V1.0/System/DeviceInfo';
const NOTIFICATION = '/LAPI/V1.0/System/Event/Notification/';

/** A call of the broker, as the device got it. */
export interface ReceivedCall {
  readonly url: string;
  readonly method: string;
  readonly cseq: number;
  readonly data: unknown;
  /** The whole message. */
  readonly text: string;
  readonly receivedMs: number;
}

/** Members of the device's answer beside ResponseURL and Cseq; a string is sent as it is; undefined = silence. */
export type Respond = (call: ReceivedCall) => Readonly<Record<string, unknown>> | string | undefined;

export interface DeviceSettings {
  readonly code?: string;
  /** Members of PUT /v1/devices/{code}. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Index of the edge; default the first. */
  readonly edge?: number;
}

const devices = new Set<Device>();

export function closeDevices(): void {
  for (const device of devices) device.wire.destroy();
  devices.clear();
}

export function newCode(): string {
  return `210235TEST${String(randomInt(1e10)).padStart(10, '0')}`;
}

export class Device {
  readonly identity: Identity;
  /** All calls of all sessions, in order. Filled once `answering` was asked for. */
  readonly calls: ReceivedCall[] = [];
  /** When the last 101 was here. */
  registeredMs = 0;
  readonly #broker: Broker;
  #wire: Wire | undefined;

  private constructor(broker: Broker, identity: Identity) {
    this.#broker = broker;
    this.identity = identity;
  }

  /** In the books of the broker, not connected. */
  static async provisioned(broker: Broker, { code = newCode(), settings = {} }: DeviceSettings = {}): Promise<Device> {
    return new Device(broker, { code, secret: await broker.provision(code, settings) });
  }

  /** Provisioned and registered. */
  static async online(broker: Broker, options: DeviceSettings = {}): Promise<Device> {
    const device = await Device.provisioned(broker, options);
    await device.register(options.edge);
    return device;
  }

  get code(): string {
    return this.identity.code;
  }

  /** The newest connection. */
  get wire(): Wire {
    if (this.#wire === undefined) throw new Error(`${this.code} has not registered yet`);
    return this.#wire;
  }

  /** A new session; an earlier connection is left as it is. */
  async register(edge = 0): Promise<Wire> {
    const wire = await Wire.register(this.#broker.edgeUrl(edge), this.identity);
    this.registeredMs = performance.now();
    this.#wire = wire;
    devices.add(this);
    return wire;
  }

  /** Answers the calls of the present session from now on, those that came already included. */
  answering(respond: Respond = () => ({ Data: {} })): void {
    const { wire } = this;
    const take = (frame: Frame): boolean => {
      const call = callOf(frame);
      if (call === undefined) return false;
      this.calls.push(call);
      const answer = respond(call);
      if (typeof answer === 'string') wire.frame(answer);
      else if (answer !== undefined) wire.json(answerTo(call, answer));
      return true;
    };
    wire.onFrame = take;
    const before = wire.frames.splice(0);
    wire.frames.push(...before.filter((frame) => !take(frame)));
  }

  /** The calls to this URL that came so far. */
  callsTo(url: string): ReceivedCall[] {
    return this.calls.filter((call) => call.url === url);
  }

  async untilCalled(url: string, times = 1, deadlineMs = 10_000): Promise<ReceivedCall> {
    return await waitFor(() => this.callsTo(url)[times - 1], {
      deadlineMs,
      what: `call ${times} of ${url} to ${this.code}`,
    });
  }

  /** Sends a keepalive with this token as Cseq (null = none) and answers the text of the response. */
  async keepalive(cseq: string | null = String(randomInt(1e9)), deadlineMs = 5_000): Promise<string> {
    const member = cseq === null ? '' : `"Cseq":${cseq},`;
    this.wire.frame(`{"RequestURL":"${KEEPALIVE}","Method":"PUT",${member}"Data":{}}`);
    return await takeText(this.wire, (text) => text.includes(`"ResponseURL":"${KEEPALIVE}"`), deadlineMs);
  }

  /** Sends a notification; answers the response. */
  async notify(kind: string, data: unknown, deadlineMs = 10_000): Promise<Record<string, unknown>> {
    return await this.request(NOTIFICATION + kind, typeof data === 'string' ? data : JSON.stringify(data), deadlineMs);
  }

  /** Sends a request with this JSON text as Data; answers the response. */
  async request(url: string, data = '{}', deadlineMs = 10_000): Promise<Record<string, unknown>> {
    const cseq = randomInt(1, 1e9);
    this.wire.frame(`{"RequestURL":"${url}","Method":"POST","Cseq":${cseq},"Data":${data}}`);
    return await this.wire.response(cseq, deadlineMs);
  }
}

export function answerTo(call: ReceivedCall, members: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return { ResponseURL: call.url, ResponseCode: 0, ResponseString: 'Succeed', Cseq: call.cseq, ...members };
}

function callOf(frame: Frame): ReceivedCall | undefined {
  if (frame.opcode !== 1) return undefined;
  const text = frame.payload.toString();
  const message = JSON.parse(text) as Record<string, unknown>;
  if (typeof message.RequestURL !== 'string') return undefined;
  return {
    url: message.RequestURL,
    method: String(message.Method),
    cseq: Number(message.Cseq),
    data: message.Data,
    text,
    receivedMs: performance.now(),
  };
}

/** Takes the first text that matches, as it came. */
export async function takeText(wire: Wire, matches: (text: string) => boolean, deadlineMs = 10_000): Promise<string> {
  return await waitFor(
    () => {
      const at = wire.frames.findIndex((frame) => frame.opcode === 1 && matches(frame.payload.toString()));
      return at < 0 ? undefined : wire.frames.splice(at, 1)[0]?.payload.toString();
    },
    { deadlineMs, what: 'a text from the broker' },
  );
}

/** What a device that pushes one motion alarm sends as Data. */
export function alarm(seq: number, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    AlarmInfo: {
      AlarmType: 'MotionAlarmOn',
      AlarmLevel: 0,
      TimeStamp: 1_735_689_600,
      AlarmSeq: seq,
      AlarmSrcType: 8,
      ...more,
    },
  };
}

/** Picture bytes as firmware sends them. */
export function picture(bytes: number): string {
  return randomBytes(Math.ceil((bytes * 3) / 4))
    .toString('base64')
    .slice(0, bytes);
}
