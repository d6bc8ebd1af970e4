/** The few calls of the platform API that `npm start` makes to prove that the broker works before it says so. */

const CALL_MS = 10_000;
const PAGE = 500;
/** LAPI's way to ask a device who it is. */
export const DEVICE_FACTS_PATH = '/LAPI/V1.0/System/DeviceInfo';

/** @typedef {{ code: string, online: boolean, node?: string }} ListedDevice */

export class Api {
  /** @param {string} base
   *  @param {string} key
   *  @param {AbortSignal} signal */
  constructor(base, key, signal) {
    this.base = base;
    /** @type {string} */
    this.key = key;
    this.signal = signal;
  }

  /** @param {string} path
   *  @returns {Promise<Record<string, unknown>>} rejects with what the API said when the status is not 200 */
  async get(path) {
    const response = await fetch(`${this.base}${path}`, {
      headers: { authorization: `Bearer ${this.key}` },
      signal: AbortSignal.any([this.signal, AbortSignal.timeout(CALL_MS)]),
    });
    const text = await response.text();
    if (response.status !== 200) throw new Error(`GET ${path} answered ${response.status}: ${text.slice(0, 500)}`);
    return JSON.parse(text);
  }

  /** @returns {Promise<ListedDevice[]>} all devices that are online */
  async onlineDevices() {
    /** @type {ListedDevice[]} */
    const devices = [];
    let cursor = '';
    do {
      const page = await this.get(
        `/v1/devices?online=true&limit=${PAGE}${cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`}`,
      );
      devices.push(.../** @type {ListedDevice[]} */ (page.items));
      cursor = typeof page.cursor === 'string' ? page.cursor : '';
    } while (cursor !== '');
    return devices;
  }

  /** A real call to a real (if simulated) device: through the API, the owner's node and its socket, and back.
   *  @param {string} code */
  async callDevice(code) {
    const answer = await this.get(`/v1/devices/${encodeURIComponent(code)}${DEVICE_FACTS_PATH}`);
    if (answer.source !== 'device')
      throw new Error(`the answer did not come from the device: ${JSON.stringify(answer).slice(0, 300)}`);
  }
}
