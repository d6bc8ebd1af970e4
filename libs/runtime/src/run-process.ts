/** Ties a lifecycle to the operating system: signals, uncaught errors, exit codes.
 *  SIGTERM or SIGINT: drain, stop, exit 0. A second signal gives up the drain and stops at once (exit 1); a third exits without
 *  waiting. A start that fails, an uncaught exception or an unhandled rejection: log fatal, exit 1 at once — the state is unknown
 *  then, and everything this process owns ends by itself with its lease. */
import type { Lifecycle, LifecycleLog } from './lifecycle.ts';

export interface ProcessLog extends LifecycleLog {
  fatal(facts: Record<string, unknown>, event: string): void;
}

export interface ProcessOptions {
  readonly log: ProcessLog;
  /** Time for draining; must fit into the grace period of whatever sends the signal, together with the stop deadlines. */
  readonly drainMs: number;
}

/** Starts the lifecycle and returns when it runs. Ends the process by itself later. Call once per process. */
export async function runProcess(lifecycle: Lifecycle, { log, drainMs }: ProcessOptions): Promise<void> {
  const fail = (event: string) => (error: unknown) => {
    log.fatal({ err: error }, event);
    process.exit(1);
  };
  process.on('uncaughtException', fail('process.uncaught_exception'));
  process.on('unhandledRejection', fail('process.unhandled_rejection'));

  let signals = 0;
  const onSignal = (signal: NodeJS.Signals): void => {
    signals += 1;
    if (signals > 2) process.exit(1);
    if (signals === 2) {
      log.warn({ signal }, 'process.stopping_at_once');
      void lifecycle.stop().then(() => process.exit(1));
      return;
    }
    log.info({ signal, drainMs }, 'process.leaving');
    void leave();
  };
  const leave = async (): Promise<void> => {
    await lifecycle.drain(drainMs);
    // After a second signal the exit code is that signal's to set.
    if (signals > 1) return;
    await lifecycle.stop();
    log.info({}, 'process.left');
    process.exit(signals > 1 ? 1 : 0);
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);

  try {
    await lifecycle.start();
  } catch (error) {
    if (signals > 0) return;
    fail('process.start_failed')(error);
  }
}
