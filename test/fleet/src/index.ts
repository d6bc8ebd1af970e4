/** Simulated LAPI devices for tests, load and trying things out. Written from the device's side of the protocol; shares nothing with the broker. */

export { answerFromCatalogue, type CatalogueAnswer, type Scene } from './catalogue.ts';
export {
  type DeviceEvents,
  type DeviceOptions,
  type DeviceState,
  type FailureFacts,
  type HookReply,
  type NotifiedFacts,
  type OfflineFacts,
  type OnlineFacts,
  type RequestHook,
  SimulatedDevice,
} from './device.ts';
export type { Answer, BrokerAnswer, DeviceRequest, Json, RegisterAck } from './envelope.ts';
export { Equipment } from './equipment.ts';
export { EVENT_KINDS, type EventKind, type EventRates, type Notification } from './event.ts';
export { type FaultPlan, type Faults, type FleetFaults, type Garbage, parseFault } from './fault.ts';
export {
  DEFAULT_PREFIX,
  DEFAULT_SECRET_SEED,
  Fleet,
  type FleetOptions,
  type FleetPlan,
  type FleetSnapshot,
  type PlannedDevice,
  planFleet,
} from './fleet.ts';
export {
  type Attempt,
  type Edge,
  findNonce,
  parseEdge,
  type RegisterOptions,
  type RegisterOutcome,
  register,
} from './handshake.ts';
export { createPictures, type Picture, type PicturePair } from './picture.ts';
export { deviceCode, PROFILE_NAMES, type Profile, type ProfileName, profileOf } from './profile.ts';
export { type ProvisionOptions, type ProvisionOutcome, provisionDevices } from './provision.ts';
export { frameBytes, type RawFrame } from './raw-frame.ts';
export { DEFAULT_RECONNECT, type ReconnectPolicy } from './reconnect.ts';
export type { SendOutcome } from './session.ts';
export {
  deriveSecret,
  type Identity,
  registerQuery,
  type SignEncoding,
  signatureText,
  signRegistration,
} from './signature.ts';
export { Durations, type TallyCounts } from './tally.ts';
export { TimerWheel } from './timer-wheel.ts';
