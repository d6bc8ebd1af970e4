/** Signals a process, and lets it go on whatever happens. */

export async function stopped(
  target: { signal(signal: NodeJS.Signals): void },
  work: () => Promise<void>,
): Promise<void> {
  target.signal('SIGSTOP');
  try {
    await work();
  } finally {
    target.signal('SIGCONT');
  }
}
