/** Answers "is this the Register path?" (protocol H1). Compared as it came: in any ASCII letter case, less one trailing `/`; not
 *  percent-decoded, `//` not collapsed, so that nothing else can become a WebSocket (S1). */

export const REGISTER_PATH = '/LAPI/V1.0/System/UpServer/Register';

const REGISTER = /^\/LAPI\/V1\.0\/System\/UpServer\/Register\/?$/i;

/** `path` is the request target up to the first `?`. */
export function isRegisterPath(path: string): boolean {
  return REGISTER.test(path);
}
