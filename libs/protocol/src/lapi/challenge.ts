/** Answers "what does a device that is not (yet) registered get?" The 401 of step 1 and of every failed step 2 (protocol 2.2, H3,
 *  H5): same status, headers and shape, only the nonce differs. No `WWW-Authenticate`, no `Connection: close` (H4). */

/** `union` serves both families of firmware; `bare` and `wrapped` are each one half of it (H3). */
export const CHALLENGE_SHAPES = ['union', 'bare', 'wrapped'] as const;
export type ChallengeShape = (typeof CHALLENGE_SHAPES)[number];

export const CHALLENGE_STATUS = '401 Unauthorized';
export const CHALLENGE_CONTENT_TYPE = 'application/json; charset=utf-8';

/** ASCII, so its length is its length in bytes. `nonce` is our own: letters and digits. */
export function challengeBody(shape: ChallengeShape, nonce: string): string {
  const bare = `{"Nonce":"${nonce}"}`;
  if (shape === 'bare') return bare;
  const response = `"Response":{"ResponseURL":"/LAPI/V1.0/System/UpServer/Register","ResponseString":"Not Authorized","StatusCode":"401","Data":${bare}}`;
  return shape === 'wrapped' ? `{${response}}` : `{"Nonce":"${nonce}",${response}}`;
}
