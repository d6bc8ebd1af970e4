/** What the two sides of the BullMQ loop must agree on. */

export interface BullCall {
  readonly code: string;
  readonly url: string;
}

export function queueOf(edge: number): string {
  return `edge-${edge}`;
}
