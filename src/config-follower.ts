import { readFile } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Clock } from './lib/clock.ts'
import { describeError } from './lib/errors.ts'
import type { Log } from './lib/log.ts'

export interface ConfigFollowerOptions<C, P> {
  readonly path: string
  /** Text in force when following begins; undefined: none was read. */
  readonly text: string | undefined
  /** The effective configuration of a text; throws where it is wrong. */
  readonly read: (text: string) => C
  readonly inForce: C
  /** Checks a changed configuration against the node; throws where it cannot be put in force. */
  readonly prepare: (config: C) => Promise<P>
  readonly rejected: (error: unknown) => void
  /** The file says again what is in force. */
  readonly accepted: () => void
  readonly clock: Clock
  readonly log: Log
}

/** How often the file is looked at, in milliseconds: a ConfigMap's volume itself lags by up to a minute. */
const lookEvery = 5000

/**
 * Follows the configuration file by content, whatever way it is replaced: written, renamed over, or by the link of a
 * ConfigMap volume. Answers the next configuration that is good and differs from the one in force; undefined once the
 * signal fires. Each text is judged once.
 */
export async function nextConfig<C, P>(
  options: ConfigFollowerOptions<C, P>,
  signal: AbortSignal,
): Promise<{ text: string; config: C; prepared: P } | undefined> {
  const { path, read, inForce, prepare, rejected, accepted, clock, log } = options
  let seen = options.text
  for (;;) {
    await clock.sleep(lookEvery, signal)
    if (signal.aborted) return undefined
    let text: string
    try {
      text = await readFile(path, 'utf8')
    } catch (error) {
      // In the middle of being replaced, or gone: what is in force stays so.
      log.v(1, 'The configuration file cannot be read now', { object: path, error: describeError(error) })
      continue
    }
    // An editor truncates before it writes: an empty file is not a wish for the defaults.
    if (text === seen || text.trim() === '') continue
    seen = text
    try {
      const config = read(text)
      if (isDeepStrictEqual(config, inForce)) {
        accepted()
        continue
      }
      return { text, config, prepared: await prepare(config) }
    } catch (error) {
      rejected(error)
    }
  }
}
