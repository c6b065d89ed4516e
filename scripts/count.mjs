// Sums up the JSON reports of vitest runs: count.mjs FAILURES REPORT... prints what failed and why, then "N passed, M failed",
// and exits accordingly.
import { existsSync, readFileSync } from 'node:fs'

/** Lines of one failure that are shown: all of them stand where the test ran. */
const LINES = 12

function tell(name, messages) {
  console.log(`verify: FAILED: ${name}`)
  for (const line of messages.flatMap((message) => message.split('\n').slice(0, LINES))) console.log(`    ${line}`)
}

let [failed, ...reports] = process.argv.slice(2)
failed = Number(failed)
let passed = 0
for (const report of reports) {
  if (!existsSync(report)) {
    console.log(`verify: no report ${report}: that run did not come to its end`)
    failed++
    continue
  }
  const { numPassedTests, numFailedTests, numFailedTestSuites, success, testResults } = JSON.parse(
    readFileSync(report, 'utf8'),
  )
  for (const { name, message, assertionResults } of testResults) {
    if (message) tell(name, [message])
    for (const test of assertionResults) {
      if (test.status === 'failed') tell(`${name} > ${test.fullName}`, test.failureMessages)
    }
  }
  passed += numPassedTests
  failed += numFailedTests
  // A file that could not be loaded has no failed test of its own.
  if (!success && numFailedTests === 0) failed += Math.max(1, numFailedTestSuites)
}
if (passed === 0) failed = Math.max(failed, 1)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
