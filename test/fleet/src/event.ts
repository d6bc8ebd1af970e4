/** What a device sends unasked (protocol 11): the bodies of its notifications. Pure; the caller counts sequence numbers and time. */

import type { Json } from './envelope.ts';
import type { Equipment } from './equipment.ts';
import type { PicturePair } from './picture.ts';
import type { ProfileName } from './profile.ts';
import { pick, type Random } from './random.ts';

/** `alarm`, `structure` (with pictures), `people` (counts), `health` (vital signs), `telemetry` (radar positions), `pass` (one vehicle). */
export type EventKind = 'alarm' | 'structure' | 'people' | 'health' | 'telemetry' | 'pass';

export const EVENT_KINDS: readonly EventKind[] = ['alarm', 'structure', 'people', 'health', 'telemetry', 'pass'];

/** Events per device and minute; an absent kind is not sent. */
export type EventRates = Partial<Readonly<Record<EventKind, number>>>;

export interface Notification {
  readonly url: string;
  readonly data: Json;
}

export interface Occasion {
  readonly equipment: Equipment;
  readonly pictures: PicturePair;
  /** Grows by one with each event of the device, over all its sessions. */
  readonly seq: number;
  /** Seconds of the device's own clock. */
  readonly timeS: number;
  readonly random: Random;
}

const NOTIFICATION = '/LAPI/V1.0/System/Event/Notification/';
const REAL_TIME_URL = '/LAPI/V1.0/System/Radar/Service/RealTimeInfo';

/** Odd sequence numbers start an alarm, even ones end it or stand alone. */
const ALARM_STARTS = [
  'MotionAlarmOn',
  'SmartMotionDetectOn',
  'LineDetectorCrossed',
  'EnterArea',
  'TamperAlarmOn',
] as const;
const ALARM_ENDS = [
  'MotionAlarmOff',
  'SmartMotionDetectOff',
  'LineDetectorCrossed',
  'LeaveArea',
  'TamperAlarmOff',
] as const;

/** Bit of SubscriptionType that asks for a kind (protocol 10.2); alarms have none. */
const BITS: Partial<Readonly<Record<EventKind, number>>> = { structure: 5, pass: 11, people: 14, health: 17 };

const PROFILES: Readonly<Record<EventKind, readonly ProfileName[]>> = {
  alarm: ['nvr', 'ipc', 'radar'],
  structure: ['nvr', 'ipc'],
  people: ['nvr', 'ipc'],
  health: ['radar'],
  telemetry: ['radar'],
  pass: ['radar'],
};

export function subscriptionBit(kind: EventKind): number | undefined {
  return BITS[kind];
}

/** Whether this kind of equipment can see such a thing: a radar takes no pictures, a camera measures no heartbeat. */
export function sendsKind(profile: ProfileName, kind: EventKind): boolean {
  return PROFILES[kind].includes(profile);
}

export function notificationUrl(kind: string): string {
  return kind.startsWith('/') ? kind : NOTIFICATION + kind;
}

export function createEvent(kind: EventKind, occasion: Occasion): Notification {
  switch (kind) {
    case 'alarm':
      return { url: notificationUrl('Alarm'), data: alarm(occasion) };
    case 'structure':
      return { url: notificationUrl('Structure'), data: structure(occasion) };
    case 'people':
      return occasion.seq % 2 === 0
        ? { url: notificationUrl('PeopleCount/AreaRuleData'), data: areaCount(occasion) }
        : { url: notificationUrl('PeopleCount/LineRuleData'), data: lineCount(occasion) };
    case 'health':
      return { url: notificationUrl('HealthData'), data: health(occasion) };
    case 'telemetry':
      return { url: REAL_TIME_URL, data: telemetry(occasion) };
    case 'pass':
      return { url: notificationUrl('PassData'), data: pass(occasion) };
  }
}

function alarm({ equipment, seq, timeS, random }: Occasion): Json {
  const channel = randomChannel(equipment, random);
  return {
    Reference: equipment.subscriptions.reference(),
    AlarmInfo: {
      AlarmType: pick(seq % 2 === 1 ? ALARM_STARTS : ALARM_ENDS, random),
      AlarmLevel: 0,
      TimeStamp: timeS,
      AlarmSeq: seq,
      AlarmSrcType: 8,
      AlarmSrcID: channel,
      AlarmSrcName: equipment.channelName(channel),
      RelatedID: relatedId(equipment, seq),
    },
  };
}

function structure({ equipment, pictures, seq, timeS, random }: Occasion): Json {
  const channel = randomChannel(equipment, random);
  const images = [pictures.panorama, pictures.object].map((picture, index) => ({
    Index: index + 1,
    Type: index + 1,
    Format: 0,
    Width: picture.width,
    Height: picture.height,
    CaptureTime: timeS,
    Size: picture.jpegBytes,
    Data: picture.base64,
  }));
  return {
    Reference: equipment.subscriptions.reference(),
    TimeStamp: timeS,
    Seq: seq,
    SrcID: channel,
    SrcName: equipment.channelName(channel),
    NotificationType: 0,
    RelatedID: relatedId(equipment, seq),
    StructureInfo: {
      ObjInfo: {
        PersonNum: 1,
        PersonInfoList: [
          {
            PersonID: seq,
            PersonDoforFaceID: 0,
            Position: `${box(random)};${box(random)}`,
            LargePicAttachIndex: 1,
            SmallPicAttachIndex: 2,
          },
        ],
      },
      ImageNum: images.length,
      ImageInfoList: images,
    },
  };
}

function lineCount({ equipment, seq, timeS, random }: Occasion): Json {
  return {
    Reference: equipment.subscriptions.reference(),
    TimeStamp: timeS,
    Seq: seq,
    LineNum: 1,
    LineRuleDataList: [
      {
        LineID: 1,
        BeginPassTime: compactTime(timeS - 60),
        EndPassTime: compactTime(timeS),
        ObjectIn: Math.floor(random() * 9),
        ObjectOut: Math.floor(random() * 9),
        TotalIn: seq * 4,
        TotalOut: seq * 3,
      },
    ],
  };
}

function areaCount({ equipment, seq, timeS, random }: Occasion): Json {
  return {
    Reference: equipment.subscriptions.reference(),
    TimeStamp: timeS,
    Seq: seq,
    AreaNum: 1,
    AreaRuleDataList: [{ AreaID: 1, ObjectNum: Math.floor(random() * 30) }],
  };
}

function health({ equipment, seq, timeS, random }: Occasion): Json {
  return {
    TimeStamp: timeS,
    Seq: seq,
    DeviceID: equipment.code,
    HealthData: {
      HasPeople: 1,
      BreathFreqAverage: 12 + Math.floor(random() * 8),
      HeartFreqAverage: 55 + Math.floor(random() * 40),
    },
  };
}

function telemetry({ equipment, timeS, random }: Occasion): Json {
  const objects = Array.from({ length: 1 + Math.floor(random() * 4) }, (_, index) => ({
    ObjectID: index + 1,
    LaneID: 1 + (index % 3),
    PositionX: Math.round((random() - 0.5) * 2000) / 100,
    PositionY: Math.round(random() * 20_000) / 100,
    Speed: Math.round(random() * 900) / 10,
  }));
  return {
    CameraID: equipment.code,
    TollgateID: '1',
    CurrentTime: timeS,
    ObjectNum: objects.length,
    ObjectList: objects,
  };
}

function pass({ equipment, seq, timeS, random }: Occasion): Json {
  return {
    TimeStamp: timeS,
    Seq: seq,
    DeviceID: equipment.code,
    SourceID: 0,
    SourceName: equipment.name,
    RelatedID: relatedId(equipment, seq),
    LaneID: 1 + Math.floor(random() * 3),
    Speed: Math.round(random() * 900) / 10,
    ObjectType: 2,
  };
}

function randomChannel(equipment: Equipment, random: Random): number {
  return equipment.profile.firstChannel + Math.floor(random() * equipment.profile.channels);
}

function relatedId(equipment: Equipment, seq: number): string {
  return `${equipment.code}-${seq}`;
}

/** A point in the 0..10000 grid of protocol 11.4. */
function box(random: Random): string {
  return `${Math.floor(random() * 10_000)},${Math.floor(random() * 10_000)}`;
}

function compactTime(timeS: number): string {
  return new Date(timeS * 1000).toISOString().replaceAll(/[-:T]|\..*$/g, '');
}
