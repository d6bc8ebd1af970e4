/** Reads the one setting that says where Redis is, for every topology. Pure. Credentials stay inside the result: errors name the wrong
 *  part and never repeat the text, so a password cannot reach a log through them; `addressesOf` is what may be logged.
 *
 *  redis://[user:password@]host[:port][/db]                        one server
 *  redis+sentinel://[user:password@]host[:port],…/master-name      found and followed through Sentinel
 *      ?db=0 &sentinel-user=… &sentinel-password=…                 Sentinel's own credentials differ from those of the servers
 *  redis+cluster://[user:password@]host[:port],…                   Redis Cluster; any reachable nodes
 *  rediss…  instead of redis…                                      TLS, certificate checked */

export interface RedisAddress {
  readonly host: string;
  readonly port: number;
}

interface Access {
  readonly addresses: readonly [RedisAddress, ...RedisAddress[]];
  readonly username: string | undefined;
  readonly password: string | undefined;
  readonly tls: boolean;
}

export type RedisTopology =
  | (Access & { readonly kind: 'standalone'; readonly db: number })
  | (Access & {
      readonly kind: 'sentinel';
      readonly master: string;
      readonly db: number;
      readonly sentinelUsername: string | undefined;
      readonly sentinelPassword: string | undefined;
    })
  | (Access & { readonly kind: 'cluster' });

const SHAPE = /^(rediss?)(?:\+(sentinel|cluster))?:\/\/(?:([^@/?]*)@)?([^@/?]+)(?:\/([^?]*))?(?:\?(.*))?$/;
const DEFAULT_PORT = { standalone: 6379, sentinel: 26379, cluster: 6379 } as const;

export function parseRedisUrl(url: string): RedisTopology {
  const match = SHAPE.exec(url.trim());
  if (match === null) {
    throw new TypeError('Redis URL: expected redis://…, redis+sentinel://… or redis+cluster://… (rediss… for TLS)');
  }
  const [, scheme, mode, userInfo, hosts = '', path = '', query = ''] = match;
  const kind = mode === 'sentinel' || mode === 'cluster' ? mode : 'standalone';
  const [first, ...rest] = hosts.split(',').map((text) => parseAddress(text, DEFAULT_PORT[kind]));
  if (first === undefined) throw new TypeError('Redis URL: a host is missing');
  const access: Access = { addresses: [first, ...rest], ...parseCredentials(userInfo), tls: scheme === 'rediss' };
  const options = new URLSearchParams(query);
  if (kind === 'cluster') {
    if (path !== '') throw new TypeError('Redis URL: a Cluster has no databases; leave the path out');
    return { kind, ...access };
  }
  if (kind === 'sentinel') {
    if (path === '')
      throw new TypeError('Redis URL: the name of the master is missing, as in redis+sentinel://host:26379/mymaster');
    return {
      kind,
      ...access,
      master: decode(path, 'name of the master'),
      db: parseDatabase(options.get('db') ?? ''),
      sentinelUsername: options.get('sentinel-user') ?? undefined,
      sentinelPassword: options.get('sentinel-password') ?? undefined,
    };
  }
  if (rest.length > 0) throw new TypeError('Redis URL: several hosts need redis+sentinel:// or redis+cluster://');
  return { kind, ...access, db: parseDatabase(path) };
}

/** `host:port,host:port` without credentials, for logs. */
export function addressesOf(topology: RedisTopology): string {
  return topology.addresses.map(({ host, port }) => `${host}:${port}`).join(',');
}

function parseAddress(text: string, defaultPort: number): RedisAddress {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+))(?::(\d{1,5}))?$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3] ?? defaultPort);
  if (host === undefined || port < 1 || port > 65_535)
    throw new TypeError('Redis URL: a host is not of the form host or host:port');
  return { host, port };
}

function parseCredentials(userInfo: string | undefined): Pick<Access, 'username' | 'password'> {
  if (userInfo === undefined || userInfo === '') return { username: undefined, password: undefined };
  const colon = userInfo.indexOf(':');
  if (colon < 0) throw new TypeError('Redis URL: credentials need the form user:password@ or :password@');
  const username = decode(userInfo.slice(0, colon), 'user');
  return {
    username: username === '' ? undefined : username,
    password: decode(userInfo.slice(colon + 1), 'password'),
  };
}

function parseDatabase(text: string): number {
  if (text === '') return 0;
  if (!/^\d{1,4}$/.test(text)) throw new TypeError('Redis URL: the database is not a number');
  return Number(text);
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new TypeError(`Redis URL: the ${part} is not percent-encoded correctly`);
  }
}
