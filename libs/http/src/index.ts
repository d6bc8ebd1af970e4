export { type DropCause, dropCauseOf } from './drop-cause.ts';
export { createServer, ListenError, type RouteMethod, type ServerBuilder } from './server.ts';
export { encodeSseComment, encodeSseEvent, type SseEvent } from './sse.ts';
export type * from './types.ts';
