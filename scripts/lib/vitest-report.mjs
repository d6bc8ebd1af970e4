/** Counts what a run of vitest proved, from its JSON report. Pure.
 *  A file that fails outside its tests (cannot be loaded, leaves something behind) is one failure, and so is a run that ends badly without
 *  any failed test: nothing that is wrong may add up to "0 failed". Skipped tests are neither. */

/** @typedef {{ passed: number, failed: number, skipped: number }} Count */

/** @typedef {{ testResults?: { status?: string, assertionResults?: { status?: string }[] }[] }} Report */

/** @param {Report | undefined} report undefined when vitest wrote none
 *  @param {number | null} exitCode
 *  @returns {Count} */
export function countTests(report, exitCode) {
  const count = { passed: 0, failed: 0, skipped: 0 };
  for (const file of report?.testResults ?? []) {
    const tests = file.assertionResults ?? [];
    const failed = tests.filter((test) => test.status === 'failed').length;
    const passed = tests.filter((test) => test.status === 'passed').length;
    count.passed += passed;
    count.failed += failed;
    count.skipped += tests.length - failed - passed;
    if (failed === 0 && file.status === 'failed') count.failed += 1;
  }
  if (exitCode !== 0 && count.failed === 0) count.failed = 1;
  return count;
}
