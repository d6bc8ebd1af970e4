/** What the API tells the process about itself, and asks of it. Implemented by command.ts: metrics, log, request ids, phase. */

export interface ApiObserver {
  answered(route: string, status: number): void;
  newRequestId(): string;
  leaving(): boolean;
  defect(error: unknown, requestId: string, route: string): void;
}
