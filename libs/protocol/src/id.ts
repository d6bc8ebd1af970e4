/** The identities that travel between parts, as branded types, so that two strings cannot be swapped.
 *  Parsing lives here too: a foreign string becomes an identity only through the functions of this file. */

declare const brand: unique symbol;
type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** Serial number of a device; `[A-Za-z0-9._:-]{1,64}`, case-sensitive (protocol 2.5). */
export type DeviceCode = Brand<string, 'DeviceCode'>;
/** `<name>.<incarnation>`: one run of one edge process. A restarted or fenced node is another NodeId. */
export type NodeId = Brand<string, 'NodeId'>;
/** One WebSocket of one device, unique in the cluster. */
export type SessionId = Brand<string, 'SessionId'>;
/** One run of one command process; names its reply channel. */
export type InstanceId = Brand<string, 'InstanceId'>;
/** One recorded command: two base-36 digits that name its shard, then 20 random characters `[0-9a-z]`. */
export type CommandId = Brand<string, 'CommandId'>;
/** Fencing number of an ownership, in microseconds of Redis time, below 2^53; only grows per device (I2). */
export type Epoch = Brand<number, 'Epoch'>;

const DEVICE_CODE = /^[A-Za-z0-9._:-]{1,64}$/;
const NODE_NAME = /^[A-Za-z0-9-]{1,63}$/;
const COMMAND_ID = /^[0-9a-z]{22}$/;
const NODE_ID = /^[A-Za-z0-9-]{1,63}\.[A-Za-z0-9]{1,32}$/;

export function isDeviceCode(text: string): text is DeviceCode {
  return DEVICE_CODE.test(text);
}

/** A node's name as configured: letters, digits, `-`, at most 63. No dot, because the dot separates the incarnation. */
export function isNodeName(text: string): boolean {
  return NODE_NAME.test(text);
}

export function isNodeId(text: string): text is NodeId {
  return NODE_ID.test(text);
}

export function isCommandId(text: string): text is CommandId {
  return COMMAND_ID.test(text);
}

/** `random`: 20 characters `[0-9a-z]`. */
export function newCommandId(shard: number, random: string): CommandId {
  return `${shard.toString(36).padStart(2, '0')}${random}` as CommandId;
}

/** The shard in which a command lies. May be one that does not exist, for an id that is not ours. */
export function shardOfCommand(id: CommandId): number {
  return Number.parseInt(id.slice(0, 2), 36);
}

/** Incarnations sort by start time: base 36 milliseconds, then random, so that a tie of epochs has a winner (I2). */
export function newNodeId(name: string, nowMs: number, random: string): NodeId {
  return `${name}.${nowMs.toString(36).padStart(9, '0')}${random}` as NodeId;
}

export function nodeNameOf(node: NodeId): string {
  return node.slice(0, node.lastIndexOf('.'));
}

export function incarnationOf(node: NodeId): string {
  return node.slice(node.lastIndexOf('.') + 1);
}
