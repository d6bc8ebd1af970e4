/** The log of a process: JSON lines on standard output, one constant event name per line, facts as fields.
 *  Nothing sensitive leaves it, whatever the caller passes (redact.ts); bodies and images are never printed whole.
 *  Writing is synchronous, so a line written before an exit is not lost. Only this package knows pino. */
import { type Bindings, type ChildLoggerOptions, type DestinationStream, type Logger, pino } from 'pino';
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
  const log = pino(
    {
      level,
      base: redactFacts({ service, ...base }),
      messageKey: 'event',
      timestamp: () => `,"at":"${new Date().toISOString()}"`,
      formatters: {
        level: (label) => ({ level: label }),
        log: redactFacts,
      },
      // redactFacts has made plain objects of errors already; pino's own serializer would print what was left out.
      serializers: { err: (value: unknown) => value },
      hooks: { streamWrite: redactText },
    },
    destination ?? pino.destination({ dest: 1, sync: true }),
  );
  return redactBindings(log);
}

/** pino's formatter for bindings is not passed on to children, so the two ways of binding are wrapped. A child has its parent as
 *  prototype and so inherits the wrapping. */
function redactBindings(log: Log): Log {
  const { child, setBindings } = log;
  return Object.assign(log, {
    child(this: Log, bindings: Bindings, options?: ChildLoggerOptions): unknown {
      return Reflect.apply(child, this, [redactFacts(bindings), options]);
    },
    setBindings(this: Log, bindings: Bindings): void {
      setBindings.call(this, redactFacts(bindings));
    },
  });
}
