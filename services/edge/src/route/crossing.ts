/** Answers "was something said about this device while its claim was on its way?" A hint that overtakes the answer of the claim finds no
 *  session here yet and would be lost (take-over, change of provisioning); the session that then opens must be compared with the
 *  store once more (3.3). Bound: one entry per claim under way; each is ended by who began it. */

import type { DeviceCode } from '@lapi-broker/protocol';

export interface ClaimUnderWay {
  readonly crossed: boolean;
  end(): void;
}

export class Crossings {
  private readonly underWay = new Map<DeviceCode, Set<{ crossed: boolean }>>();

  begin(code: DeviceCode): ClaimUnderWay {
    const claims = this.underWay.get(code) ?? new Set();
    this.underWay.set(code, claims);
    const claim = {
      crossed: false,
      end: () => {
        claims.delete(claim);
        if (claims.size === 0 && this.underWay.get(code) === claims) this.underWay.delete(code);
      },
    };
    claims.add(claim);
    return claim;
  }

  told(code: DeviceCode): void {
    for (const claim of this.underWay.get(code) ?? []) claim.crossed = true;
  }
}
