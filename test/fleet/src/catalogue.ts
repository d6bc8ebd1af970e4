/** What a device answers to which call: the resources of protocol 12 and 10, as one table.
 *  Bodies are plausible, not copies of a firmware. A resource that is not in the table gets code 4; wrong values get code 2.
 *  Decisions depend on the equipment, the request and the time given; the only side effect is on the equipment. */

import { type Answer, type DeviceRequest, type Json, numberOf } from './envelope.ts';
import type { ChannelMemory, Equipment } from './equipment.ts';
import type { PicturePair } from './picture.ts';
import { command, viewAt } from './ptz.ts';

/** What the catalogue needs to answer. */
export interface Scene {
  readonly equipment: Equipment;
  readonly pictures: PicturePair;
  readonly nowMs: number;
}

/** `reboot` asks the owner of the connection to go offline after the answer and to come back. */
export interface CatalogueAnswer extends Answer {
  readonly effect?: 'reboot';
}

interface Call extends Scene {
  readonly request: DeviceRequest;
  /** Path parameters in order. */
  readonly params: readonly string[];
}

type Handler = (call: Call) => CatalogueAnswer;

const PREFIX = '/LAPI/V1.0';
const PRESETS_PER_CHANNEL = 255;
const STREAMS_PER_CHANNEL = 8;
const RECORDS_PER_ANSWER = 100;
const RECORD_S = 3600;

const NOT_SUPPORTED: Answer = { code: 4 };
const INVALID: Answer = { code: 2 };
const DONE: Answer = { code: 0 };

const RESOURCES: readonly (readonly [method: string, path: string, handler: Handler])[] = [
  ['GET', '/System/DeviceInfo', deviceInfo],
  ['GET', '/System/DeviceBasicInfo', basicInfo],
  ['GET', '/System/Capabilities', capabilities],
  ['GET', '/System/DeviceWorkMode', () => ({ code: 0, data: { WorkMode: 0 } })],
  ['GET', '/System/Time', readTime],
  ['PUT', '/System/Time', setTime],
  ['PUT', '/System/Reboot', () => ({ code: 0, effect: 'reboot' })],
  ['POST', '/System/Event/Subscription', subscribe],
  ['GET', '/System/Event/Subscription/Capabilities', ({ equipment }) => equipment.subscriptions.capabilities()],
  ['PUT', '/System/Event/Subscription/:id', renew],
  ['DELETE', '/System/Event/Subscription/:id', unsubscribe],
  ['GET', '/Channels/System/ChannelDetailInfos', channelDetails],
  ['GET', '/Storage/Containers/DetailInfos', storage],
  ['GET', '/Channels/:c/Media/Video/Streams/RecordURL', onChannel(recordUrl)],
  ['GET', '/Channels/:c/Media/Video/Streams/Sessions', onChannel(listStreams)],
  ['GET', '/Channels/:c/Media/Video/Streams/:s/LiveStreamURL', onChannel(liveUrl)],
  ['GET', '/Channels/:c/Media/Video/Streams/:s/Records', onChannel(records)],
  ['GET', '/Channels/:c/Media/Video/Streams/:s/Records/DailyDistribution', onChannel(recordDays)],
  ['GET', '/Channels/:c/Media/Video/Streams/:s/Snapshot', onChannel(snapshot)],
  ['POST', '/Channels/:c/Media/Video/Streams/:s/Sessions', onChannel(startStream)],
  ['DELETE', '/Channels/:c/Media/Video/Streams/:s/Sessions/:id', onChannel(stopStream)],
  ['PUT', '/Channels/:c/PTZ/PTZCtrl', onPtz(control)],
  ['GET', '/Channels/:c/PTZ/Status', onPtz(ptzStatus)],
  ['GET', '/Channels/:c/PTZ/Presets', onPtz(listPresets)],
  ['POST', '/Channels/:c/PTZ/Presets', onPtz(addPreset)],
  ['PUT', '/Channels/:c/PTZ/Presets/:n', onPtz(setPreset)],
  ['DELETE', '/Channels/:c/PTZ/Presets/:n', onPtz(removePreset)],
  ['PUT', '/Channels/:c/PTZ/Presets/:n/Goto', onPtz(gotoPreset)],
];

const ROUTES = RESOURCES.map(([method, path, handler]) => ({
  method,
  pattern: new RegExp(`^${path.replaceAll(/:[a-z]+/g, '([^/]+)')}$`),
  handler,
}));

export function answerFromCatalogue(request: DeviceRequest, scene: Scene): CatalogueAnswer {
  if (!request.path.startsWith(`${PREFIX}/`)) return NOT_SUPPORTED;
  // Old firmware writes Channel for Channels.
  const path = request.path.slice(PREFIX.length).replace(/^\/Channel\//, '/Channels/');
  for (const route of ROUTES) {
    if (route.method !== request.method) continue;
    const match = route.pattern.exec(path);
    if (match !== null) return route.handler({ ...scene, request, params: match.slice(1) });
  }
  return NOT_SUPPORTED;
}

function onChannel(handler: (call: Call, channel: ChannelMemory, id: number) => CatalogueAnswer): Handler {
  return (call) => {
    const id = numberOf(call.params[0]) ?? -1;
    const channel = call.equipment.channel(id);
    return channel === undefined ? INVALID : handler(call, channel, id);
  };
}

function onPtz(handler: (call: Call, channel: ChannelMemory) => CatalogueAnswer): Handler {
  const onAnyChannel = onChannel(handler);
  return (call) => (call.equipment.profile.hasPtz ? onAnyChannel(call) : NOT_SUPPORTED);
}

// ── System ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

function deviceInfo({ equipment }: Call): Answer {
  const { profile, code } = equipment;
  return {
    code: 0,
    data: {
      DeviceName: equipment.name,
      DeviceType: profile.deviceType,
      DeviceCode: code,
      DeviceModel: profile.model,
      SerialNumber: code,
      FirmwareVersion: 'SIM-B1000.1.0.240101',
      HardwareID: 'A',
    },
  };
}

function basicInfo({ equipment }: Call): Answer {
  const { profile, code, address } = equipment;
  return {
    code: 0,
    data: {
      Manufacturer: 'Uniview',
      DeviceModel: profile.model,
      DeviceConfig: profile.deviceType,
      SerialNumber: code,
      MAC: address.split('.').reduce((mac, part) => `${mac}:${Number(part).toString(16).padStart(2, '0')}`, '02:00'),
      FirmwareVersion: 'SIM-B1000.1.0.240101',
    },
  };
}

function capabilities({ equipment }: Call): Answer {
  const { profile } = equipment;
  return {
    code: 0,
    data: {
      ChannelNum: profile.channels,
      FirstChannelID: profile.firstChannel,
      StreamNum: 3,
      PTZ: profile.hasPtz,
      Storage: profile.hasDisk,
      SupportEventType: profile.supportType,
    },
  };
}

function readTime({ equipment, nowMs }: Call): Answer {
  return {
    code: 0,
    data: {
      TimeZone: 'GMT+00:00',
      DeviceTime: Math.floor(equipment.clockMs(nowMs) / 1000),
      DateFormat: 1,
      HourFormat: 1,
    },
  };
}

function setTime({ equipment, nowMs, request }: Call): Answer {
  const timeS = numberOf(request.data.DeviceTime);
  if (timeS === undefined || timeS < 0) return INVALID;
  equipment.clockOffsetMs = timeS * 1000 - nowMs;
  return DONE;
}

// ── Subscriptions (protocol 10) ─────────────────────────────────────────────────────────────────────────────────────────

function subscribe({ equipment, request, nowMs }: Call): Answer {
  return equipment.subscriptions.create(request.data, nowMs, equipment.clockMs(nowMs));
}

function renew({ equipment, request, params, nowMs }: Call): Answer {
  return equipment.subscriptions.renew(numberOf(params[0]) ?? -1, request.data, nowMs, equipment.clockMs(nowMs));
}

function unsubscribe({ equipment, params, nowMs }: Call): Answer {
  return equipment.subscriptions.remove(numberOf(params[0]) ?? -1, nowMs);
}

// ── Channels and media ──────────────────────────────────────────────────────────────────────────────────────────────────

function channelDetails({ equipment }: Call): Answer {
  const { profile } = equipment;
  const details = equipment.channelIds().map((id) => ({
    ID: id,
    Name: equipment.channelName(id),
    Status: 1,
    OffReason: 0,
    StreamNums: 3,
    DeviceType: profile.hasPtz ? 1 : 0,
    AddressInfo: { AddressType: 0, Address: equipment.address, Port: 80 },
  }));
  return { code: 0, data: { Nums: details.length, DetailInfos: details } };
}

function storage({ equipment }: Call): Answer {
  const disks = equipment.profile.hasDisk
    ? [{ ID: 1, Status: 3, Manufacturer: 'SIM', TotalCapacity: 4_000_000, RemainCapacity: 250_000 }]
    : [];
  return { code: 0, data: { LocalHDDNum: disks.length, LocalHDDList: disks } };
}

function liveUrl({ equipment, params }: Call, _channel: ChannelMemory, id: number): Answer {
  const stream = streamOf(params[1]);
  if (stream === undefined) return INVALID;
  return { code: 0, data: { URL: `rtsp://${equipment.address}:554/unicast/c${id}/s${stream}/live` } };
}

function recordUrl({ equipment, request }: Call, _channel: ChannelMemory, id: number): Answer {
  const span = spanOf(request);
  if (span === undefined) return INVALID;
  const session = encodeURIComponent(request.query.get('SessionID') ?? '0');
  return {
    code: 0,
    data: { URL: `http://${equipment.address}:80/record/c${id}/b${span.begin}/e${span.end}?session=${session}` },
  };
}

function records({ equipment, request, params }: Call): Answer {
  const span = spanOf(request);
  if (span === undefined || streamOf(params[1]) === undefined) return INVALID;
  const found: Json[] = [];
  if (equipment.profile.hasDisk) {
    for (let begin = span.begin; begin < span.end && found.length < RECORDS_PER_ANSWER; begin += RECORD_S) {
      found.push({ Begin: begin, End: Math.min(span.end, begin + RECORD_S), Types: 'Normal' });
    }
  }
  return { code: 0, data: { Nums: found.length, RecordInfos: found } };
}

function recordDays({ equipment, request, nowMs }: Call): Answer {
  const year = numberOf(request.query.get('Year'));
  const month = numberOf(request.query.get('Month'));
  if (year === undefined || month === undefined || !Number.isInteger(month) || month < 1 || month > 12) return INVALID;
  const days: number[] = [];
  const lastDay = new Date(Date.UTC(year, month, 0)).getUTCDate();
  for (let day = 1; day <= lastDay && equipment.profile.hasDisk; day += 1) {
    if (Date.UTC(year, month - 1, day) <= equipment.clockMs(nowMs)) days.push(day);
  }
  return { code: 0, data: { Year: year, Month: month, Nums: days.length, Days: days } };
}

function snapshot({ pictures, params, equipment, nowMs }: Call): Answer {
  if (streamOf(params[1]) === undefined) return INVALID;
  const { panorama } = pictures;
  return {
    code: 0,
    data: {
      Format: 'JPEG',
      Width: panorama.width,
      Height: panorama.height,
      CaptureTime: Math.floor(equipment.clockMs(nowMs) / 1000),
      Size: panorama.jpegBytes,
      Data: panorama.base64,
    },
  };
}

function startStream({ request, params }: Call, channel: ChannelMemory): Answer {
  const stream = streamOf(params[1]);
  const session = request.data.SessionID;
  const type = numberOf(request.data.Type) ?? 1;
  if (stream === undefined || typeof session !== 'string' || session === '' || session.length > 64) return INVALID;
  if (channel.streams.has(session)) return { code: 202 };
  if (channel.streams.size >= STREAMS_PER_CHANNEL) return { code: 203 };
  channel.streams.set(session, { stream, type });
  return { code: 0, data: { SessionID: session } };
}

function listStreams(_call: Call, channel: ChannelMemory): Answer {
  const sessions = [...channel.streams].map(([id, { type }]) => ({ SessionID: id, Type: type }));
  return { code: 0, data: { Nums: sessions.length, SessionInfoList: sessions } };
}

function stopStream({ params }: Call, channel: ChannelMemory): Answer {
  const session = params[2] ?? '';
  if (channel.streams.get(session)?.stream !== streamOf(params[1])) return { code: 201 };
  channel.streams.delete(session);
  return DONE;
}

// ── PTZ ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

function control({ request, nowMs }: Call, channel: ChannelMemory): Answer {
  const moved = command(channel.ptz, numberOf(request.data.PTZCmd) ?? -1, numberOf(request.data.Para1) ?? 1, nowMs);
  if (moved === undefined) return INVALID;
  channel.ptz = moved;
  return DONE;
}

/** Not in the specification: lets a person see that the camera moved. */
function ptzStatus({ nowMs }: Call, channel: ChannelMemory): Answer {
  const view = viewAt(channel.ptz, nowMs);
  return {
    code: 0,
    data: {
      Pan: rounded(view.panDegrees),
      Tilt: rounded(view.tiltDegrees),
      Zoom: rounded(view.zoom),
      Focus: rounded(view.focus),
      Moving: channel.ptz.motion === undefined ? 0 : 1,
    },
  };
}

function listPresets({ request }: Call, channel: ChannelMemory): Answer {
  const offset = numberOf(request.query.get('Offset')) ?? 0;
  const limit = numberOf(request.query.get('Limit')) ?? PRESETS_PER_CHANNEL;
  const all = [...channel.presets]
    .sort(([left], [right]) => left - right)
    .map(([id, { name }]) => ({ ID: id, Name: name }));
  return { code: 0, data: { Nums: all.length, PresetInfos: all.slice(offset, offset + limit) } };
}

function addPreset(call: Call, channel: ChannelMemory): Answer {
  const id = numberOf(call.request.data.ID) ?? freePreset(channel);
  const answer = storePreset(call, channel, id);
  return answer.code === 0 ? { ...answer, members: { CreatedID: id } } : answer;
}

function setPreset(call: Call, channel: ChannelMemory): Answer {
  return storePreset(call, channel, numberOf(call.params[1]) ?? 0);
}

function storePreset({ request, nowMs }: Call, channel: ChannelMemory, id: number): Answer {
  const name = request.data.Name ?? `Preset ${id}`;
  if (!Number.isInteger(id) || id < 1 || id > PRESETS_PER_CHANNEL || typeof name !== 'string' || name.length > 64)
    return INVALID;
  channel.presets.set(id, { name, view: viewAt(channel.ptz, nowMs) });
  return { code: 0, data: { ID: id } };
}

function removePreset({ params }: Call, channel: ChannelMemory): Answer {
  return channel.presets.delete(numberOf(params[1]) ?? 0) ? DONE : INVALID;
}

function gotoPreset({ params, nowMs }: Call, channel: ChannelMemory): Answer {
  const preset = channel.presets.get(numberOf(params[1]) ?? 0);
  if (preset === undefined) return INVALID;
  channel.ptz = { view: preset.view, motion: undefined, sinceMs: nowMs };
  return DONE;
}

function freePreset(channel: ChannelMemory): number {
  let id = 1;
  while (channel.presets.has(id)) id += 1;
  return id;
}

// ── Values ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** 0 main, 1 sub, 2 third. */
function streamOf(text: string | undefined): number | undefined {
  return text === '0' || text === '1' || text === '2' ? Number(text) : undefined;
}

function spanOf(request: DeviceRequest): { readonly begin: number; readonly end: number } | undefined {
  const begin = numberOf(request.query.get('Begin'));
  const end = numberOf(request.query.get('End'));
  return begin === undefined || end === undefined || begin < 0 || end <= begin ? undefined : { begin, end };
}

function rounded(value: number): number {
  return Math.round(value * 100) / 100;
}
