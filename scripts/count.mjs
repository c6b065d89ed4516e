// Sums up the JSON reports of vitest runs: count.mjs FAILURES REPORT... prints "N passed, M failed" and exits accordingly.
import { existsSync, readFileSync } from 'node:fs'

let [failed, ...reports] = process.argv.slice(2)
failed = Number(failed)
let passed = 0
for (const report of reports) {
  if (!existsSync(report)) {
    console.log(`verify: no report ${report}: that run did not come to its end`)
    failed++
    continue
  }
  const { numPassedTests, numFailedTests, numFailedTestSuites, success } = JSON.parse(readFileSync(report, 'utf8'))
  passed += numPassedTests
  failed += numFailedTests
  // A file that could not be loaded has no failed test of its own.
  if (!success && numFailedTests === 0) failed += Math.max(1, numFailedTestSuites)
}
if (passed === 0) failed = Math.max(failed, 1)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
