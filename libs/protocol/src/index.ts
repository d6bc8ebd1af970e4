/** Everything that parts of the broker say to each other and to devices: identities, errors, frames between services, and the LAPI
 *  codecs. Pure: imports nothing but the runtime's crypto and buffers. */

export * from './error.ts';
export * from './id.ts';
export * from './lapi/challenge.ts';
export * from './lapi/device-request.ts';
export * from './lapi/envelope.ts';
export * from './lapi/image.ts';
export * from './lapi/nonce.ts';
export * from './lapi/notification.ts';
export * from './lapi/register-path.ts';
export * from './lapi/register-query.ts';
export * from './lapi/request-url.ts';
export * from './lapi/response-code.ts';
export * from './lapi/scan.ts';
export * from './lapi/signature.ts';
export * from './lapi/write.ts';
export * from './message/command-frame.ts';
export * from './message/control-frame.ts';
export * from './message/ended-frame.ts';
export * from './message/event.ts';
export * from './message/reply-frame.ts';
export * from './message/shown-frame.ts';
