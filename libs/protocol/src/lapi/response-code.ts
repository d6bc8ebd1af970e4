/** Answers "what does this ResponseCode say, and which HTTP status does the platform see?" (protocol 13.1, 13.2).
 *  Codes that are not in the table pass through unchanged and become 502: the device did answer, but not with success. */

/** Texts as devices and vendor servers write them. */
export const RESPONSE_STRINGS: ReadonlyMap<number, string> = new Map([
  [0, 'Succeed'],
  [1, 'Common Error'],
  [2, 'Invalid Arguments'],
  [3, 'Not Authorized'],
  [4, 'Not Supported'],
  [5, 'Abnormal User Status'],
  [102, 'Partially Succeed'],
  [201, 'Stream Session Not Exist'],
  [202, 'Stream Session Already Exist'],
  [203, 'Stream Session Limit Reached'],
  [500, 'Internal Server Error'],
  [1002, 'Invalid Token'],
  [2001, 'Device Not Exist'],
]);

/** The codes the broker itself answers with. */
export const SUCCEED = 0;
export const COMMON_ERROR = 1;
export const NOT_SUPPORTED = 4;

export function responseString(code: number): string {
  return RESPONSE_STRINGS.get(code) ?? 'Unknown';
}

/** Status for a device's answer. `success` is E17, so code 0 with a StatusCode other than 0 is 502, as is a missing code. */
export function httpStatusOf(responseCode: number | undefined, success: boolean): number {
  if (success) return 200;
  switch (responseCode) {
    case 2:
      return 400;
    case 3:
    case 5:
      return 403;
    case 4:
      return 501;
    case 2001:
      return 404;
    default:
      return 502;
  }
}
