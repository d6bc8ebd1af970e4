/** Answers "what does this request of a device ask for?" from its URL alone (protocol E15, D1, K4, 11.1). Query, letter case and one
 *  trailing `/` do not matter; the method does not either (6.3, row 7). What a notification contains is read in notification.ts. */

/** `heartbeat`: an access controller's HeartReportInfo, answered, not published. `unhandled`: answered with code 4, published. */
export type DeviceRequest =
  | { readonly type: 'keepalive' | 'unregister' | 'heartbeat' | 'unhandled' }
  | NotificationTarget;

export interface NotificationTarget {
  readonly type: 'notification';
  readonly family: 'event' | 'radar';
  /** What follows the family's prefix, without slashes around it; empty for the unified format of V1.1. */
  readonly name: string;
}

const UP_SERVER = /^\/LAPI\/V1\.0\/System\/UpServer\/(Keepalive|Unregister)\/?$/i;
const EVENT = /^\/LAPI\/V1\.\d{1,3}\/System\/Event\/Notification(?:\/(.*))?$/i;
const RADAR = /^\/LAPI\/V1\.0\/System\/Radar\/(.*)$/i;
const HEARTBEAT = /^\/LAPI\/V1\.0\/PACS\/Controller\/HeartReportInfo\/?$/i;

export function readDeviceRequest(url: string): DeviceRequest {
  const path = pathOf(url);
  const upServer = UP_SERVER.exec(path);
  if (upServer !== null) return { type: upServer[1]?.length === 'Keepalive'.length ? 'keepalive' : 'unregister' };
  const event = EVENT.exec(path);
  if (event !== null) return { type: 'notification', family: 'event', name: trimSlashes(event[1] ?? '') };
  const radar = RADAR.exec(path);
  if (radar !== null) return { type: 'notification', family: 'radar', name: trimSlashes(radar[1] ?? '') };
  return { type: HEARTBEAT.test(path) ? 'heartbeat' : 'unhandled' };
}

/** The URL up to its query. */
export function pathOf(url: string): string {
  const mark = url.indexOf('?');
  return mark === -1 ? url : url.slice(0, mark);
}

function trimSlashes(text: string): string {
  let start = 0;
  let end = text.length;
  while (text[start] === '/') start++;
  while (end > start && text[end - 1] === '/') end--;
  return text.slice(start, end);
}
