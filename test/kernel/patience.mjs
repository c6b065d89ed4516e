const step = 250

/**
 * Calls once that many milliseconds, in whole quarters of a second, have passed in which this process could run. After a
 * halt of the machine an answer may be there already that a timer, which comes first then, would count as none. Gives
 * what `clearInterval` ends.
 */
export function afterRunning(milliseconds, call) {
  let left = Math.ceil(milliseconds / step)
  const timer = setInterval(() => {
    left--
    if (left > 0) return
    clearInterval(timer)
    call()
  }, step)
  return timer
}
