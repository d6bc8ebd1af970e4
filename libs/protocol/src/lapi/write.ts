/** Answers "which bytes go to the device?" Key order of protocol 6.2, compact, no BOM; raw JSON is put in place, never written
 *  anew (E12, E18). Callers answer for `data` being JSON: it is not looked at here. */

import { hash } from 'node:crypto';
import type { DeviceCode } from '../id.ts';
import type { LapiMethod } from '../message/command-frame.ts';
import { responseString, SUCCEED } from './response-code.ts';

export interface LapiRequest {
  readonly url: string;
  readonly method: LapiMethod;
  readonly cseq: number;
  /** JSON text; empty is sent as `{}` (C1). */
  readonly data: Uint8Array;
}

export interface LapiResponse {
  /** The device's own URL (E14). */
  readonly url: string;
  readonly code: number;
  /** The device's own token; undefined = the answer carries none (E12). */
  readonly cseq: string | undefined;
  /** JSON text; absent is sent as `{}`. */
  readonly data?: string;
  /** Adds `"Code"` beside `"ResponseCode"`, as access controllers expect it of a heartbeat (11.3). */
  readonly pacsCode?: boolean;
}

export function requestText(request: LapiRequest): Buffer {
  const { url, method, cseq, data } = request;
  const head = `{"RequestURL":${JSON.stringify(url)},"Method":"${method}","Cseq":${cseq},"Data":`;
  if (data.length === 0) return Buffer.from(`${head}{}}`);
  const headBytes = Buffer.byteLength(head);
  const text = Buffer.allocUnsafe(headBytes + data.length + 1);
  text.write(head, 0);
  text.set(data, headBytes);
  text[text.length - 1] = 0x7d;
  return text;
}

export function responseText(response: LapiResponse): Buffer {
  const { url, code, cseq, data = '{}', pacsCode = false } = response;
  const plainCode = pacsCode ? `,"Code":${code}` : '';
  const echo = cseq === undefined ? '' : `,"Cseq":${cseq}`;
  return Buffer.from(
    `{"ResponseURL":${JSON.stringify(url)},"ResponseCode":${code},"ResponseString":"${responseString(code)}"${plainCode}${echo},"Data":${data}}`,
  );
}

/** First message of a session under `registerAck=frame` (A1). `resign` undefined = member left out (A6). */
export function registerAckText(cnonce: string, resign: string | undefined): Buffer {
  return Buffer.from(JSON.stringify({ Cnonce: cnonce, Resign: resign }));
}

/** Seconds until the next keepalive (K2): `baseS` ± 10 %, the same for a device always, because firmware has no jitter (K3). */
export function keepaliveTimeoutS(code: DeviceCode, baseS: number): number {
  const share = Number.parseInt(hash('sha256', code, 'hex').slice(0, 4), 16) / 65536;
  return Math.round(baseS * (0.9 + 0.2 * share));
}

/** Never an error, whatever else is broken (K4). `Timestamp` in whole seconds (K1). */
export function keepaliveText(url: string, cseq: string | undefined, nowMs: number, timeoutS: number): Buffer {
  const data = `{"Timestamp":${Math.floor(nowMs / 1000)},"Timeout":${timeoutS}}`;
  return responseText({ url, code: SUCCEED, cseq, data });
}
