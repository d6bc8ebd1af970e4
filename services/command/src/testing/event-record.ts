/** An event record for tests; every member can be given. */

import type { DeviceCode, Epoch, EventRecord } from '@lapi-broker/protocol';

export function record(part: Partial<EventRecord> = {}): EventRecord {
  return {
    code: 'cam-1' as DeviceCode,
    kind: 'alarm.MotionAlarmOn',
    url: '/LAPI/V1.0/System/Event/Notification/Alarm',
    at: 0,
    receivedAt: 0,
    epoch: 1 as Epoch,
    session: '',
    seq: 1,
    tags: [],
    dedupKey: '',
    images: '',
    data: Buffer.from('{}'),
    ...part,
  };
}
