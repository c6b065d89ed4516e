import type { Guard, Reply } from './health/server.ts'
import type { TokenReviewer } from './kube/token-review.ts'
import { describeError } from './lib/errors.ts'
import type { Log } from './lib/log.ts'

const plain = (code: number, body: string, headers: Readonly<Record<string, string>> = {}): Reply => ({
  code,
  type: 'text/plain; charset=utf-8',
  body,
  headers,
})

/** Lets those ask whom the API server lets do so on a path of that name. */
export function tokenGuard(reviewer: Pick<TokenReviewer, 'review'>, log: Log): Guard {
  let failing = false
  return async ({ method, path, authorization }) => {
    const [, token] = /^Bearer +([\x21-\x7e]+)$/i.exec(authorization) ?? []
    if (token === undefined) return plain(401, 'a bearer token is needed', { 'WWW-Authenticate': 'Bearer' })
    try {
      const verdict = await reviewer.review(token, method === 'HEAD' ? 'get' : method.toLowerCase(), path)
      if (failing) log.info('Tokens for the metrics server are reviewed again')
      failing = false
      if (verdict === 'allowed') return undefined
      if (verdict === 'forbidden') return plain(403, `the bearer of this token may not get ${path}`)
      return plain(401, 'nobody has this token', { 'WWW-Authenticate': 'Bearer error="invalid_token"' })
    } catch (error) {
      // Who asks may ask a thousand times: the first time is told.
      const facts = { path, error: describeError(error) }
      if (failing) log.v(2, 'A token for the metrics server cannot be reviewed', facts)
      else log.error('Tokens for the metrics server cannot be reviewed: it answers 503', facts)
      failing = true
      return plain(503, 'the token cannot be reviewed now: the API server does not say whose it is', {
        'Retry-After': '10',
      })
    }
  }
}
