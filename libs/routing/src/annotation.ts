/** The bound of what a node may note about a session: it lies in the row of the device, which every listing reads. */

import { BrokerError } from '@lapi-broker/protocol';

const MAX_CHARACTERS = 4096;

export function checkAnnotation(text: string): void {
  if (text.length > MAX_CHARACTERS) {
    throw new BrokerError('internal', `an annotation has at most ${MAX_CHARACTERS} characters, not ${text.length}`);
  }
}
