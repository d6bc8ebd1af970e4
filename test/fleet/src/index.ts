/** Simulated LAPI devices for tests, load and trying things out. Written from the device's side of the protocol; shares nothing with the broker. */

export { type CatalogueAnswer, type Scene, answerFromCatalogue } from './catalogue.ts';
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
export { type Answer, type BrokerAnswer, type DeviceRequest, type Json, type RegisterAck } from './envelope.ts';
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
export { type Attempt, type Edge, type RegisterOptions, type RegisterOutcome, findNonce, parseEdge, register } from './handshake.ts';
export { type Picture, type PicturePair, createPictures } from './picture.ts';
export { PROFILE_NAMES, type Profile, type ProfileName, deviceCode, profileOf } from './profile.ts';
export { type ProvisionOptions, type ProvisionOutcome, provisionDevices } from './provision.ts';
export { type RawFrame, frameBytes } from './raw-frame.ts';
export { DEFAULT_RECONNECT, type ReconnectPolicy } from './reconnect.ts';
export { type SendOutcome } from './session.ts';
export { type Identity, type SignEncoding, deriveSecret, registerQuery, signatureText, signRegistration } from './signature.ts';
export { Durations, type TallyCounts } from './tally.ts';
export { TimerWheel } from './timer-wheel.ts';
