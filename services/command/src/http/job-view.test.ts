import type { DeviceCode } from '@lapi-broker/protocol';
import { describe, expect, it } from 'vitest';
import { csvField, targetsCsv } from './job-view.ts';

describe('the table of a job', () => {
  it('fields are quoted where RFC 4180 needs it', () => {
    expect(['plain', 'a,b', 'say "hi"', 'two\r\nlines', ''].map(csvField)).toEqual([
      'plain',
      '"a,b"',
      '"say ""hi"""',
      '"two\r\nlines"',
      '',
    ]);
  });

  it('no field is a formula to a spreadsheet', () => {
    expect(['=1+1', '+1', '-1', '@SUM(A1)', '\tx', '=A,B'].map(csvField)).toEqual([
      "'=1+1",
      "'+1",
      "'-1",
      "'@SUM(A1)",
      "'\tx",
      '"\'=A,B"',
    ]);
  });

  it('every device is one line, and codes that begin with a sign are text', () => {
    const csv = targetsCsv(
      'k3v9x2m4q8w1z5t6r0ya',
      [
        { index: 0, code: '-1' as DeviceCode, state: 'todo', tries: 0, reason: '' },
        {
          index: 1,
          code: 'B' as DeviceCode,
          state: 'failed',
          tries: 0,
          executed: 'no',
          reason: 'device_offline',
          endedAtMs: 0,
        },
      ],
      { shardOf: () => 0 },
    );
    expect(csv.split('\r\n')).toEqual([
      'code,state,executed,reason,responseCode,tries,commandId,startedAt,endedAt',
      "'-1,todo,,,,0,,,",
      'B,failed,no,device_offline,,0,,,1970-01-01T00:00:00.000Z',
      '',
    ]);
  });
});
