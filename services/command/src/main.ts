/** The command service as a process: reads its settings, tells what is wrong with them in words (exit 2), and runs until a signal. */

import { ConfigError, configHelp, runProcess } from '@lapi-broker/runtime';
import { createLog } from '@lapi-broker/telemetry';
import { createCommandService } from './command.ts';
import { type CommandConfig, CommandSettings, readCommandConfig } from './config.ts';

function configOrExit(): CommandConfig {
  if (process.argv.includes('--help')) {
    process.stdout.write(
      configHelp('LAPI Broker command service: the API of platforms.\nUsage: command [--help]', CommandSettings),
    );
    process.exit(0);
  }
  try {
    return readCommandConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`${error.message}\nRun with --help for all settings.\n`);
    process.exit(2);
  }
}

const config = configOrExit();
const log = createLog({ service: 'command', level: config.LAPI_LOG_LEVEL });
await runProcess(createCommandService(config, log).lifecycle, { log, drainMs: config.LAPI_DRAIN_SECONDS * 1_000 });
