/** Answers "which devices is this job for?": a list is checked device by device, a filter is resolved to the devices that it meets at this
 *  moment, in byte order of their codes. Reads only. Bounded: targets of a job, rows that a filter may walk. */

import { type DeviceRow, type DeviceStore, matchesFirmware } from '@lapi-broker/device';
import type { DeviceCode } from '@lapi-broker/protocol';
import type { JobPace, NewTarget, TargetChoice } from './job.ts';
import { JOB_LIMITS } from './job-limits.ts';
import { lookUpAll, type PresenceParts, refreshFor } from './presence.ts';

export interface ChosenTarget extends NewTarget {
  readonly online: boolean;
}

export type Chosen =
  | { readonly status: 'chosen'; readonly targets: readonly ChosenTarget[] }
  | { readonly status: 'invalid'; readonly problem: string };

export interface ChooseParts extends PresenceParts {
  readonly devices: Pick<DeviceStore, 'get' | 'list'>;
}

/** Rows per read, and devices looked up at once. */
const BATCH = 1_000;
/** So that no filter walks a fleet of a million to find a few. */
const WALKED_ROWS = 100_000;

export async function chooseTargets(parts: ChooseParts, choice: TargetChoice, pace: JobPace): Promise<Chosen> {
  const prefix = pace.perTag?.prefix;
  return choice.kind === 'codes'
    ? { status: 'chosen', targets: await listed(parts, choice.codes, prefix) }
    : await filtered(parts, choice, prefix);
}

async function listed(
  parts: ChooseParts,
  codes: readonly DeviceCode[],
  prefix: string | undefined,
): Promise<readonly ChosenTarget[]> {
  const chosen: ChosenTarget[] = [];
  for (let from = 0; from < codes.length; from += BATCH) {
    const batch = codes.slice(from, from + BATCH);
    const [present, rows] = await Promise.all([
      lookUpAll(parts, batch),
      // Tags cost a second read, which most jobs do not need.
      prefix === undefined ? [] : Promise.all(batch.map((code) => parts.devices.get(code))),
    ]);
    for (const [at, code] of batch.entries()) {
      const { known = false, online = false } = present[at] ?? {};
      chosen.push({ code, known, online, groups: groupsOf(rows[at], prefix) });
    }
  }
  return chosen;
}

async function filtered(
  { devices, nodes }: ChooseParts,
  { tag, type, firmware, online: wished }: Extract<TargetChoice, { readonly kind: 'filter' }>,
  prefix: string | undefined,
): Promise<Chosen> {
  const chosen: ChosenTarget[] = [];
  const narrowing = { ...(tag === undefined ? {} : { tag }), ...(type === undefined ? {} : { type }) };
  let after = '';
  for (let walked = 0; walked < WALKED_ROWS; walked += BATCH) {
    const rows = await devices.list({ after, limit: BATCH, ...narrowing });
    await refreshFor(
      nodes,
      rows.map(({ owner }) => owner?.node),
    );
    for (const row of rows) {
      after = row.code;
      const online = row.owner !== undefined && nodes.liveness(row.owner.node) === 'alive';
      if (wished !== undefined && online !== wished) continue;
      if (firmware !== undefined && !matchesFirmware(row.firmware, firmware)) continue;
      if (chosen.length === JOB_LIMITS.targets)
        return invalid(`meets more than ${JOB_LIMITS.targets} devices; make several jobs of it`);
      chosen.push({ code: row.code, known: true, online, groups: groupsOf(row, prefix) });
    }
    if (rows.length < BATCH)
      return chosen.length > 0 ? { status: 'chosen', targets: chosen } : invalid('meets no device');
  }
  return invalid(`would have to look at more than ${WALKED_ROWS} devices; add a tag or a type`);
}

function groupsOf(row: DeviceRow | undefined, prefix: string | undefined): readonly string[] {
  return prefix === undefined ? [] : (row?.tags.filter((tag) => tag.startsWith(prefix)) ?? []);
}

function invalid(problem: string): Chosen {
  return { status: 'invalid', problem };
}
