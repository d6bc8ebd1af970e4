/** Answers "which event is this notification, when did it happen, how is it answered, and how does a consumer recognise a repeat?"
 *  (protocol 11)
 *
 *  URL after `…/Event/Notification/`           kind of the event                 class
 *  Alarm                                        alarm.<AlarmType>                 stored
 *  PeopleCount/LineRuleData                     peoplecount.line                  stored
 *  PeopleCount/AreaRuleData                     peoplecount.area                  stored
 *  ObjectRealTimeData                           objectrealtimedata                lossy
 *  another name of 11.1 (Structure, HealthData) the name in lower case            stored
 *  empty (unified format of V1.1)               notification                      stored
 *  any other <A/B>                              notification.<A.B>                stored
 *  /LAPI/V1.0/System/Radar/Service/RealTimeInfo radar.realtimeinfo                lossy
 *  /LAPI/V1.0/System/Radar/<A/B>                radar.<A.B>                       stored
 *  a request that is no notification            unhandled                         stored
 *
 *  Words of the device keep their case; characters other than letters, digits, `-`, `_` become `_` (S14). Fields are read from the
 *  raw bytes: a message with megabytes of pictures is walked, not parsed, and numbers keep every digit (E18). Pure. */

import { createHash } from 'node:crypto';
import type { DeviceCode } from '../id.ts';
import type { DeviceRequest } from './device-request.ts';
import { pathOf } from './device-request.ts';
import { deviceTime, localTime } from './device-time.ts';
import { decodeString, findMembers, type Member, MemberNames } from './scan.ts';

export interface Notification {
  readonly kind: string;
  /** Stored: answered after the store accepted it (V2). Lossy: answered at once, may be dropped under load. */
  readonly delivery: 'stored' | 'lossy';
  readonly fields: NotificationFields;
}

/** Raw JSON tokens (strings with their quotes), each undefined if absent, `null`, no scalar, or longer than 512 bytes. */
export interface NotificationFields {
  readonly seq: string | undefined;
  readonly time: string | undefined;
  readonly alarmType: string | undefined;
  /** `Data.Seq`, `Data.NotificationType`, `Data.RelatedID`: echoed in some answers (11.3). */
  readonly ownSeq: string | undefined;
  readonly notificationType: string | undefined;
  readonly relatedId: string | undefined;
}

/** Data of the answer with code 0, and whether `"Code":0` stands beside it. */
export interface NotificationAnswer {
  readonly data: string;
  readonly pacsCode: boolean;
}

const FIELD_BYTES = 512;
const KIND_CHARACTERS = 128;
const DEDUP_KEY_CHARACTERS = 256;

/** Names of 11.1 whose kind is the name in lower case. */
const PLAIN_KINDS: ReadonlySet<string> = new Set([
  'structure',
  'motiondetection',
  'personinfo',
  'personverification',
  'vehicleeventinfo',
  'healthdata',
  'objectrealtimedata',
  'passdata',
  'roadflow',
  'trafficflow',
  'vehiclequeuelen',
  'radardetection',
  'overflow',
  'pedestrian',
  'nonmotorlist',
  'parkinglist',
  'overspeedslist',
  'lowspeedslist',
  'retrogradelist',
  'congestionlist',
  'lanechangelist',
  'occupancyemergenctlist',
  'restrictedarealist',
]);
const LOSSY_KINDS: ReadonlySet<string> = new Set(['objectrealtimedata', 'radar.realtimeinfo']);

/** Many per second, each soon outdated (class L of 11.1). */
export function isLossyKind(kind: string): boolean {
  return LOSSY_KINDS.has(kind);
}

/** Nested names match exactly; letter case is forgiven at the top level of a message only (6.3, row 4). */
const DATA_NAMES = new MemberNames(
  ['Seq', 'RelatedID', 'TimeStamp', 'Timestamp', 'CurrentTime', 'AlarmType', 'NotificationType', 'AlarmInfo'],
  'exact',
);
const ALARM_NAMES = new MemberNames(['AlarmSeq', 'RelatedID', 'TimeStamp', 'AlarmType'], 'exact');

const NO_FIELDS: NotificationFields = {
  seq: undefined,
  time: undefined,
  alarmType: undefined,
  ownSeq: undefined,
  notificationType: undefined,
  relatedId: undefined,
};

/** `request` is what `readDeviceRequest` made of the URL; `data` the `data` of the envelope, which is checked JSON. */
export function readNotification(request: DeviceRequest, data: Buffer | undefined): Notification {
  const fields = readFields(data);
  const kind = kindOf(request, fields);
  return { kind, delivery: isLossyKind(kind) ? 'lossy' : 'stored', fields };
}

function kindOf(request: DeviceRequest, fields: NotificationFields): string {
  if (request.type !== 'notification') return 'unhandled';
  const name = request.name.toLowerCase();
  if (request.family === 'radar') {
    return name === 'service/realtimeinfo' ? 'radar.realtimeinfo' : dotted('radar', request.name);
  }
  if (name === 'alarm') {
    const type = fields.alarmType === undefined ? '' : scalarText(fields.alarmType);
    return type === '' ? 'alarm' : `alarm.${word(type)}`;
  }
  if (name === 'peoplecount/lineruledata') return 'peoplecount.line';
  if (name === 'peoplecount/arearuledata') return 'peoplecount.area';
  return PLAIN_KINDS.has(name) ? name : dotted('notification', request.name);
}

function dotted(family: string, name: string): string {
  const words = name.split('/', 16).filter((part) => part !== '');
  return [family, ...words.map(word)].join('.').slice(0, KIND_CHARACTERS).replace(/\.$/, '');
}

function word(text: string): string {
  return text.slice(0, 64).replace(/[^A-Za-z0-9_-]/g, '_');
}

function readFields(data: Buffer | undefined): NotificationFields {
  if (data === undefined || data[0] !== 0x7b) return NO_FIELDS;
  const own = findMembers(data, 0, DATA_NAMES);
  const [seq, relatedId, timeStamp, timestamp, currentTime, alarmType, notificationType] = own.map((member) =>
    scalarToken(data, member),
  );
  const info = own[7];
  const [alarmSeq, alarmRelatedId, alarmTime, innerAlarmType] =
    info !== undefined && data[info.start] === 0x7b
      ? findMembers(data, info.start, ALARM_NAMES).map((member) => scalarToken(data, member))
      : [];
  return {
    seq: seq ?? alarmSeq ?? relatedId ?? alarmRelatedId,
    time: timeStamp ?? timestamp ?? alarmTime ?? currentTime,
    alarmType: innerAlarmType ?? alarmType,
    ownSeq: seq,
    notificationType,
    relatedId,
  };
}

function scalarToken(data: Buffer, member: Member | undefined): string | undefined {
  if (member === undefined || member.end - member.start > FIELD_BYTES) return undefined;
  const first = data[member.start];
  const absent = first === 0x6e || first === 0x7b || first === 0x5b;
  return absent ? undefined : data.toString('utf8', member.start, member.end);
}

/** A string's content, any other token as it stands. */
function scalarText(token: string): string {
  if (!token.startsWith('"')) return token;
  const bytes = Buffer.from(token);
  return decodeString(bytes, 0, bytes.length);
}

/** Members that a device waits for (11.3, V7), for an answer with code 0. Other codes carry `{}`. `timeZone` is the profile's, an
 *  IANA name; UTC without one. */
export function notificationAnswer(
  request: DeviceRequest,
  fields: NotificationFields,
  nowMs: number,
  timeZone = 'UTC',
): NotificationAnswer {
  if (request.type === 'heartbeat') return { data: `{"Time":"${localTime(nowMs, timeZone)}"}`, pacsCode: true };
  if (request.type !== 'notification' || request.family !== 'event') return { data: '{}', pacsCode: false };
  switch (request.name.toLowerCase()) {
    case 'structure':
      return {
        data: objectText([
          ['NotificationType', fields.notificationType],
          ['RelatedID', fields.relatedId],
        ]),
        pacsCode: false,
      };
    case 'personverification':
      return {
        data: objectText([
          ['RecordID', fields.ownSeq],
          ['Time', `"${localTime(nowMs, timeZone)}"`],
        ]),
        pacsCode: false,
      };
    default:
      return { data: '{}', pacsCode: false };
  }
}

function objectText(members: readonly (readonly [string, string | undefined])[]): string {
  const present = members.filter(([, token]) => token !== undefined);
  return `{${present.map(([name, token]) => `"${name}":${token}`).join(',')}}`;
}

/** When it happened, ms since the epoch: by the device's clock where it sent a time that can be read and can be true, else the receipt.
 *  `timeZone` is the profile's, an IANA name. */
export function happenedAt({ time }: NotificationFields, receivedMs: number, timeZone = 'UTC'): number {
  return time === undefined ? receivedMs : deviceTime(scalarText(time), receivedMs, timeZone);
}

/** `DeviceCode|path|seq|time|type` (11.5); empty if the device sent nothing to count by. Long keys are replaced by their hash. */
export function dedupKeyOf(code: DeviceCode, url: string, fields: NotificationFields): string {
  const { seq, time, alarmType } = fields;
  if (seq === undefined) return '';
  const parts = [
    code,
    pathOf(url),
    ...[seq, time, alarmType].map((token) => (token === undefined ? '' : scalarText(token))),
  ];
  const key = parts.join('|');
  if (key.length <= DEDUP_KEY_CHARACTERS) return key;
  return `${code}|${createHash('sha256').update(key).digest('hex')}`;
}
