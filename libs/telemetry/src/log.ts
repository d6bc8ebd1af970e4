/** The log of a process: JSON lines on standard output, one constant event name per line, facts as fields.
 *  Nothing sensitive leaves it, whatever the caller passes (redact.ts); bodies and images are never printed whole.
 *  Writing is synchronous, so a line written before an exit is not lost. Only this package knows pino. */
import { type DestinationStream, type Logger, pino } from 'pino';
import { redactFacts, redactText } from './redact.ts';

/** `log.info({ code, epoch }, 'session.opened')`: facts first, then the event name. Ids go to a child: `log.child({ code })`. */
export type Log = Logger;
export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';

export interface LogOptions {
  readonly service: string;
  readonly level: LogLevel;
  /** On every line, such as the node's name. */
  readonly base?: Readonly<Record<string, unknown>>;
  /** Where lines go; standard output when absent. */
  readonly destination?: DestinationStream;
}

export function createLog({ service, level, base = {}, destination }: LogOptions): Log {
  return pino(
    {
      level,
      base: { service, ...base },
      messageKey: 'event',
      timestamp: () => `,"at":"${new Date().toISOString()}"`,
      formatters: {
        level: (label) => ({ level: label }),
        bindings: redactFacts,
        log: redactFacts,
      },
      // redactFacts has made plain objects of errors already; pino's own serializer would print what was left out.
      serializers: { err: (value: unknown) => value },
      hooks: { streamWrite: redactText },
    },
    destination ?? pino.destination({ dest: 1, sync: true }),
  );
}
