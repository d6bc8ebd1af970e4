/** Reads where a message broker is, and who we are to it: `scheme://user:password@host:port,host:port`.
 *  Credentials are percent-encoded, as in every URL. What is wrong is told without repeating the text, which may hold them. Pure. */

export interface SinkUrl {
  readonly scheme: string;
  /** `host:port`, IPv6 in brackets. */
  readonly hosts: readonly string[];
  readonly username: string | undefined;
  readonly password: string | undefined;
}

export interface SinkUrlRules {
  /** Scheme → the port where none is given. */
  readonly ports: Readonly<Record<string, number>>;
  readonly maxHosts: number;
  readonly example: string;
}

const FORM = /^([a-z]+):\/\/(?:([^@/]*)@)?([^@/?#\s]+)$/;
const HOST = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?$/;

export const NATS_URL: SinkUrlRules = {
  ports: { nats: 4222, tls: 4222 },
  maxHosts: 16,
  example: 'nats://host:4222, nats://user:password@host:4222, nats://token@host:4222, tls://… or nats://a:4222,b:4222',
};

export const MQTT_URL: SinkUrlRules = {
  ports: { mqtt: 1883, mqtts: 8883 },
  maxHosts: 1,
  example: 'mqtt://host:1883, mqtt://user:password@host:1883 or mqtts://host:8883',
};

/** Throws RangeError that says what would have been right. */
export function parseSinkUrl(text: string, { ports, maxHosts, example }: SinkUrlRules): SinkUrl {
  const [, scheme = '', credentials, list = ''] = FORM.exec(text) ?? [];
  const port = Object.hasOwn(ports, scheme) ? ports[scheme] : undefined;
  const found = list.split(',').map((host) => HOST.exec(host));
  const hosts = found.map((host) => `${host?.[1]}:${host?.[2] ?? port}`);
  const [username, password] = (credentials ?? '').split(/:(.*)/s).map(decoded);
  if (port === undefined || found.includes(null) || hosts.length > maxHosts) throw new RangeError(`must be ${example}`);
  return { scheme, hosts, username: username || undefined, password };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new RangeError('has credentials that are not percent-encoded');
  }
}
