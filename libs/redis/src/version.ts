/** Answers "can this server carry the broker?" Scripts with flags, sharded pub/sub and the facts of XINFO that are used here came with
 *  Redis 7.0; every Valkey has them. Pure. */

/** Takes the reply of `INFO server`; answers a sentence for people, or undefined when all is well. */
export function versionProblem(facts: string): string | undefined {
  if (/^(?:valkey_version:|server_name:valkey)/m.test(facts)) return undefined;
  const version = /^redis_version:((\d+)\.\S*)/m.exec(facts);
  if (version !== null && Number(version[2]) >= 7) return undefined;
  const found = version === null ? 'a server that names no version' : `Redis ${version[1]}`;
  return `Redis 7.0 or newer, or Valkey, is needed; found ${found}.`;
}
