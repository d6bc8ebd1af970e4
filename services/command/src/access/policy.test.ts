import { describe, expect, it } from 'vitest';
import { PathPolicy } from './policy.ts';

const policy = new PathPolicy();

describe('LAPI path policy', () => {
  it.each([
    '/LAPI/V1.0/System/UpServer/Register',
    '/LAPI/V1.0/System/UpServer/Keepalive?x=1',
    '/LAPI/V1.1/System/UpServer/Unregister/',
    '/LAPI/V1.0/System/Event/Subscription',
    '/LAPI/V1.0/System/Event/Subscription/249',
    '/LAPI/v1.0/system/event/SUBSCRIPTION',
    '/LAPI/V1.0/System/%55pServer/Register',
  ])('%s is never passed through (C10)', (path) => {
    expect(policy.judge(path).status).toBe('forbidden_by_policy');
  });

  it.each([
    '/LAPI/V1.0/System/Users',
    '/LAPI/V1.0/System/UsersList/3',
    '/LAPI/V1.0/System/Security/RSA',
    '/LAPI/V1.0/System/UpgradeStatus',
    '/LAPI/V1.0/System/Reboot',
    '/LAPI/V1.0/system/reboot',
    '/LAPI/V1.0/System/%52eboot',
    '/LAPI/V1.0/System/UpServer/Configure',
    '/LAPI/V1.0/Channels/3/System/Reboot',
    '/LAPI/V1.0/PACS/Controller/RemoteOpened',
    '/LAPI/V1.0/System/FactoryReset',
  ])('%s needs the admin scope (S13)', (path) => {
    expect(policy.judge(path).status).toBe('guarded');
  });

  it.each([
    '/LAPI/V1.0/System/DeviceInfo',
    '/LAPI/V1.0/Channels/1/PTZ/PTZCtrl',
    '/LAPI/V1.0/System/Time?x=/System/Reboot',
  ])('%s is open', (path) => {
    expect(policy.judge(path).status).toBe('open');
  });

  it.each([
    '/LAPI/V1.0//System',
    '/LAPI/../etc',
    '/LAPI/V1.0/a%2fb',
    '/x',
    '',
    '/LAPI/V1.0/%',
    `/LAPI/${'x'.repeat(2100)}`,
  ])('%s is malformed (C5)', (path) => {
    expect(policy.judge(path).status).toBe('invalid_request');
  });

  it('a remembered verdict is the same verdict, and memory is bounded', () => {
    const first = policy.judge('/LAPI/V1.0/System/Reboot');
    for (let i = 0; i < 10_000; i++) policy.judge(`/LAPI/V1.0/Channels/${i}/PTZ/Presets`);
    expect(policy.judge('/LAPI/V1.0/System/Reboot')).toEqual(first);
  });
});
