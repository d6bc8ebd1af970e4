/** What a device may say, sound or not, as text: envelopes of protocol 6.2 with the content of 11.1, in every spelling that 6.3 forgives, and beyond
 *  it. Pure. */

import type { Chance } from './chance.ts';
import { KEEPALIVE } from './device.ts';
import { anyJson, type Json, mutateBytes, mutateJson, mutateText } from './mutate.ts';

const EVENT = '/LAPI/V1.0/System/Event/Notification/';
const UNREGISTER = '/LAPI/V1.0/System/UpServer/Unregister';
const URLS: readonly string[] = [
  ...['Alarm', 'Structure', 'MotionDetection', 'PersonVerification', 'HealthData', 'VehicleEventInfo'].map(
    (kind) => EVENT + kind,
  ),
  ...['PeopleCount/LineRuleData', 'PeopleCount/AreaRuleData', 'ObjectRealTimeData', 'Made/Up', ''].map(
    (kind) => EVENT + kind,
  ),
  '/LAPI/V1.1/System/Event/Notification',
  '/LAPI/V1.0/System/Radar/Service/RealTimeInfo',
  '/LAPI/V1.0/System/Radar/x/y',
  '/LAPI/V1.0/PACS/Controller/HeartReportInfo',
  '/LAPI/V1.0/Nothing/Known',
  KEEPALIVE,
];

export interface DeviceText {
  readonly kind: string;
  readonly text: string;
  /** Raw JSON token that exactly one response must carry. */
  readonly cseq?: string;
}

const PLAIN: readonly Json[] = [
  0,
  1,
  -1,
  1_735_689_600,
  '1735689600',
  '20250131235959',
  '2025-01-31T23:59:59Z',
  'MotionAlarmOn',
  '',
  'ü',
  '密钥',
  '😀',
  null,
  true,
];

function scalar(chance: Chance): Json {
  return chance.is(0.8) ? chance.pick(PLAIN) : mutateText(chance, 'MotionAlarmOn').toWellFormed();
}

function picture(chance: Chance): Json {
  const bytes = chance.bytes(chance.pick([0, 3, 100, 3_073, 9_000]));
  const text = bytes.toString('base64');
  const data = chance.pick([
    text,
    text.replaceAll('=', ''),
    `${text.slice(0, 76)}\r\n${text.slice(76)}`,
    `data:image/jpeg;base64,${text}`,
    `${text}=`,
    mutateText(chance, text).toWellFormed(),
  ]);
  return {
    Index: chance.between(0, 3),
    Format: scalar(chance),
    Size: chance.pick([bytes.length, data.length, -1, 'x']),
    Data: data,
  };
}

/** `Data` of a notification, near to what firmware sends. */
function content(chance: Chance): Json {
  const many = <T>(make: () => T): T[] => Array.from({ length: chance.pick([0, 1, 1, 2, 70]) }, make);
  switch (chance.weighted({ alarm: 4, structure: 3, motion: 1, person: 2, count: 1, any: 2, none: 1 })) {
    case 'alarm':
      return {
        Reference: '10.0.0.9:80/Subscription/Subscribers/249',
        AlarmInfo: {
          AlarmType: scalar(chance),
          TimeStamp: scalar(chance),
          AlarmSeq: scalar(chance),
          RelatedID: scalar(chance),
          AlarmSrcName: scalar(chance),
        },
      };
    case 'structure':
      return {
        TimeStamp: scalar(chance),
        NotificationType: scalar(chance),
        RelatedID: scalar(chance),
        StructureInfo: { ImageNum: 1, ImageInfoList: many(() => picture(chance)) },
      };
    case 'motion':
      return {
        SourceID: 1,
        TimeStamp: scalar(chance),
        AlarmPicture: { ImageNum: 1, ImageList: many(() => picture(chance)) },
      };
    case 'person':
      return {
        Seq: scalar(chance),
        Timestamp: scalar(chance),
        FaceInfoList: many(() => ({
          PanoImage: picture(chance),
          FaceImage: picture(chance),
          FeatureList: [{ Feature: 'AAAA' }],
        })),
        CardInfoList: many(() => ({ IDImage: picture(chance) })),
      };
    case 'count':
      return {
        LineNum: 1,
        LineRuleDataList: many(() => ({ LineID: 0, BeginPassTime: scalar(chance), ObjectIn: scalar(chance) })),
      };
    case 'any':
      return anyJson(chance, 6);
    case 'none':
      return null;
  }
}

const NUMBERS = [
  '0',
  '-0',
  '-1',
  '17',
  '2147483648',
  '9007199254740993',
  '123456789012345678901234567890',
  '1e5',
  '1.0',
  '-1E-400',
  '1e400',
];

/** A token that must come back as it is (E12); undefined: none is sent. `serial` makes it one of a kind. */
function cseqOf(chance: Chance, serial: number): string | undefined {
  const made = chance.pick([
    String(1_000_000_000 + serial),
    `"s${serial}"`,
    `"\\u0041\\n\\"${serial}"`,
    `"ü${serial}"`,
    `${serial}.${chance.pick(NUMBERS).replace(/[^0-9]/g, '')}`,
    `-${serial}e${chance.between(0, 400)}`,
    `9007199254740993${serial}`,
    undefined,
  ]);
  return made;
}

interface Parts {
  readonly url: string;
  readonly cseq: string | undefined;
  readonly data: string | undefined;
  readonly method: string;
}

function requestText(chance: Chance, { url, cseq, data, method }: Parts): string {
  const members: [string, string][] = [
    ['RequestURL', JSON.stringify(url)],
    ['Method', JSON.stringify(method)],
    ...(cseq === undefined ? [] : ([['Cseq', cseq]] as [string, string][])),
    ...(data === undefined ? [] : ([['Data', data]] as [string, string][])),
  ];
  if (chance.is(0.1)) members.push(['Unknown', JSON.stringify(anyJson(chance))]);
  const fold = chance.is(0.1);
  const [gap, colon] = chance.pick([
    ['', ':'],
    ['', ':'],
    ['', ':'],
    [' ', ' : '],
    ['\r\n\t', ':\t'],
  ] as const);
  const spelled = (chance.is(0.2) ? chance.shuffled(members) : members).map(
    ([name, value]) => `${gap}"${fold ? name.toLowerCase() : name}"${colon}${value}`,
  );
  let text = `{${spelled.join(',')}${gap}}`;
  if (chance.is(0.08)) text = `{"Response":${text}}`;
  if (chance.is(0.05)) text = `\ufeff${text}`;
  if (chance.is(0.05)) text += chance.pick(['\0', '\r\n', ' \0\0', '\n\n']);
  return text;
}

function dataText(chance: Chance, value: Json): string {
  const text = JSON.stringify(value);
  return chance.weighted({ plain: 8, string: 1, null: 1 }) === 'plain'
    ? text
    : chance.pick([JSON.stringify(text), '"null"', 'null', '""', JSON.stringify(JSON.stringify(text))]);
}

export function soundText(chance: Chance, serial: number): DeviceText {
  const url = chance.pick(URLS) + (chance.is(0.05) ? '?a=b' : '');
  const cseq = cseqOf(chance, serial);
  const data = chance.is(0.1) ? undefined : dataText(chance, content(chance));
  const text = requestText(chance, { url, cseq, data, method: chance.pick(['POST', 'PUT', '', 'x'.repeat(40)]) });
  return { kind: 'sound', text, ...(cseq === undefined ? {} : { cseq }) };
}

export function unregisterText(serial: number): DeviceText {
  const cseq = `"u${serial}"`;
  return { kind: 'unregister', text: `{"RequestURL":"${UNREGISTER}","Method":"DELETE","Cseq":${cseq}}`, cseq };
}

/** Valid JSON, with something in it that is not as it should be. */
export function oddText(chance: Chance, serial: number): DeviceText {
  let value: Json = {
    RequestURL: chance.pick(URLS),
    Method: 'POST',
    Cseq: serial,
    Data: content(chance),
    ...(chance.is(0.2) ? { ResponseURL: '/x', ResponseCode: 0 } : {}),
    ...(chance.is(0.1) ? { Response: { RequestURL: chance.pick(URLS), Cseq: serial } } : {}),
  };
  for (let i = chance.between(1, 3); i > 0; i--) value = mutateJson(chance, value);
  return { kind: 'odd', text: (JSON.stringify(value) ?? 'null').toWellFormed() };
}

/** Damaged text, still UTF-8. */
export function damagedText(chance: Chance, serial: number): DeviceText {
  const { text } = soundText(chance, serial);
  return { kind: 'damaged', text: mutateBytes(chance, Buffer.from(text)).toString().toWellFormed() };
}

/** Shapes on the border of what a parser takes. */
export function deepText(chance: Chance, serial: number): DeviceText {
  const depth = chance.pick([1, 62, 63, 64, 65, 66, 1_000, 50_000, 500_000]);
  const keys = chance.pick([9_990, 9_996, 10_000, 10_001, 100_000]);
  const inner = chance.pick([
    () => `${'['.repeat(depth)}${']'.repeat(depth)}`,
    () => `${'{"a":'.repeat(depth)}0${'}'.repeat(depth)}`,
    () => '['.repeat(depth),
    () => `{${Array.from({ length: keys }, (_, i) => `"k${i}":0`).join(',')}}`,
    () => `{${Array.from({ length: keys }, () => '"__proto__":0').join(',')}}`,
    () => `[${'{},'.repeat(keys)}{}]`,
    () => `"${'\\u0000'.repeat(keys)}"`,
    () => `"${'\\'.repeat(2 * depth)}"`,
    () => `"${'\\"'.repeat(depth)}"`,
    () => '9'.repeat(depth),
    () => `1e${'9'.repeat(depth)}`,
    () => JSON.stringify(`${'['.repeat(depth)}${']'.repeat(depth)}`),
  ])();
  return {
    kind: 'deep',
    text: requestText(chance, { url: chance.pick(URLS), cseq: String(serial), data: inner, method: 'POST' }),
  };
}

/** Megabytes of what is slowest to read. `bytes` in sum. */
export function bigText(chance: Chance, serial: number, bytes: number): DeviceText {
  const url = EVENT + chance.pick(['Structure', 'Alarm', 'ObjectRealTimeData']);
  const head = `{"RequestURL":"${url}","Method":"POST","Cseq":${serial},"Data":`;
  const room = bytes - head.length - 200;
  const fill = (unit: string): string => unit.repeat(Math.floor(room / unit.length));
  const shape = chance.weighted({
    base64: 3,
    text: 1,
    controls: 1,
    listed: 1,
    empty: 1,
    quoted: 1,
    spaces: 1,
    lines: 1,
    slashes: 1,
    inString: 2,
    escaped: 1,
    escapes: 1,
    pictures: 1,
  });
  const data = ((): string => {
    switch (shape) {
      case 'base64':
        return `{"StructureInfo":{"ImageInfoList":[{"Index":1,"Data":"${fill('QUJDREVGR0g=').replaceAll('=', 'A')}"}]}}`;
      case 'text':
        return `"${fill('密')}"`.replace(/密+/, (run) => run.slice(0, Math.floor(run.length / 3)));
      case 'controls':
        return `"${fill('a\tbcdefghijklmnopqrstuvwxyz0123456789')}"`;
      case 'listed':
        return `[${fill('0,')}0]`;
      case 'empty':
        return `[${fill('[],')}[]]`;
      case 'quoted':
        return `"${fill('\\"')}"`;
      case 'spaces':
        return `{${fill(' ')}}`;
      case 'lines':
        return `[${fill('\n')}]`;
      case 'slashes':
        return `"${fill('\\\\')}"`;
      case 'inString':
        return `"{\\"a\\":\\"${fill('x')}\\"}"`;
      case 'escaped':
        return `"[${fill('\\n')}]"`;
      case 'escapes':
        return `"{\\"a\\":\\"${fill('\\u0041')}\\"}"`;
      case 'pictures':
        return `{"List":[${fill(`{"Index":1,"Data":"${'A'.repeat(4_096)}"},`)}0]}`;
    }
  })();
  return { kind: `big ${shape}`, text: `${head}${data}}`, cseq: String(serial) };
}

/** The answer of a device to a call with this number, sound or not. */
export function answerText(chance: Chance, url: string, cseq: number): DeviceText {
  const sound: Json = {
    ResponseURL: chance.pick([url, url.toLowerCase(), '', '/']),
    ResponseCode: chance.pick<Json>([0, 0, 1, 2, 3, 4, 5, 102, 203, 500, 2001, '0', ' 4 ', -1, 2 ** 31, null, 1.5]),
    ResponseString: scalar(chance),
    ...(chance.is(0.3) ? { StatusCode: chance.pick<Json>([0, '0', 401, null, 'x']) } : {}),
    ...(chance.is(0.2) ? { source: 'broker', error: 'x', written: false } : {}),
    Cseq: chance.pick<Json>([cseq, cseq, cseq, String(cseq)]),
    Data: content(chance),
  };
  if (chance.is(0.3)) {
    const text = JSON.stringify(sound);
    return { kind: 'answer damaged', text: mutateBytes(chance, Buffer.from(text)).toString().toWellFormed() };
  }
  const value = chance.is(0.3) ? mutateJson(chance, sound) : sound;
  const members = typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
  const gap = chance.pick(['', '', ' ', '\n']);
  const text =
    members.length === 0
      ? JSON.stringify(value)
      : `{${chance
          .shuffled(members)
          .map(([name, member]) => `${gap}${JSON.stringify(name)}${gap}:${gap}${JSON.stringify(member)}${gap}`)
          .join(',')}}`;
  return { kind: 'answer', text: (chance.is(0.1) ? `{"Response":${text}}` : text).toWellFormed() };
}
