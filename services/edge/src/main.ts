import { ConfigError, configHelp, runProcess } from '@lapi-broker/runtime';
import { createLog } from '@lapi-broker/telemetry';
import { type EdgeConfig, EdgeSettings, readEdgeConfig } from './config.ts';
import { createEdge } from './edge.ts';

function configOrExit(): EdgeConfig {
  if (process.argv.includes('--help')) {
    process.stdout.write(
      configHelp('LAPI Broker edge node: takes the connections of devices.\nUsage: edge [--help]', EdgeSettings),
    );
    process.exit(0);
  }
  try {
    return readEdgeConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`${error.message}\nRun with --help for all settings.\n`);
    process.exit(2);
  }
}

const config = configOrExit();
const log = createLog({ service: 'edge', level: config.LAPI_LOG_LEVEL, base: { name: config.LAPI_NODE_NAME } });
runProcess(createEdge(config, log), { log, drainMs: config.LAPI_DRAIN_SECONDS * 1_000 });
