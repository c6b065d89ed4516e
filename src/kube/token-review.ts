import { createHash } from 'node:crypto'
import { systemClock, type Clock } from '../lib/clock.ts'
import { ProxyError } from '../lib/errors.ts'
import type { Client } from './client.ts'
import { isJson } from './translate.ts'

/** 'unknown': nobody has the token; 'forbidden': who has it may not do this. */
export type Verdict = 'allowed' | 'forbidden' | 'unknown'

export interface TokenReviewOptions {
  readonly client: Pick<Client, 'send'>
  readonly clock?: Clock
  /** Milliseconds that an answer counts. */
  readonly keepAllowed?: number
  readonly keepRefused?: number
  /** So many answers are kept. */
  readonly most?: number
  /** So many questions are under way at most: who has no token must not make the API server work. */
  readonly mostAtOnce?: number
  /** Milliseconds that the API server may take. */
  readonly timeoutMs?: number
}

interface Kept {
  readonly verdict: Verdict
  readonly until: number
}

const reviews = {
  token: { path: '/apis/authentication.k8s.io/v1/tokenreviews', right: 'tokenreviews.authentication.k8s.io' },
  access: {
    path: '/apis/authorization.k8s.io/v1/subjectaccessreviews',
    right: 'subjectaccessreviews.authorization.k8s.io',
  },
} as const

type Json = Readonly<Record<string, unknown>>

/** Asks the API server whose a bearer token is and what he may do; answers are kept for a while, tokens never. */
export class TokenReviewer {
  readonly #options: TokenReviewOptions
  readonly #clock: Clock
  /** By a hash of token, verb and path; the oldest first. */
  readonly #kept = new Map<string, Kept>()
  readonly #asked = new Map<string, Promise<Verdict>>()

  constructor(options: TokenReviewOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
  }

  /** Whether the bearer may do `verb` on a path that is no resource. Throws ProxyError API where nobody can say. */
  async review(token: string, verb: string, path: string): Promise<Verdict> {
    const { mostAtOnce = 8 } = this.#options
    const key = createHash('sha256').update(`${token}\n${verb} ${path}`).digest('base64')
    const kept = this.#kept.get(key)
    if (kept !== undefined && this.#clock.now() < kept.until) return kept.verdict
    const asked = this.#asked.get(key)
    if (asked !== undefined) return asked
    if (this.#asked.size >= mostAtOnce) throw new ProxyError('API', 'too many tokens are under review already')
    const answer = this.#ask(token, verb, path)
    this.#asked.set(key, answer)
    try {
      const verdict = await answer
      this.#keep(key, verdict)
      return verdict
    } finally {
      this.#asked.delete(key)
    }
  }

  #keep(key: string, verdict: Verdict): void {
    const { keepAllowed = 120_000, keepRefused = 10_000, most = 1000 } = this.#options
    this.#kept.delete(key)
    const [oldest] = this.#kept.keys()
    if (oldest !== undefined && this.#kept.size >= most) this.#kept.delete(oldest)
    this.#kept.set(key, { verdict, until: this.#clock.now() + (verdict === 'allowed' ? keepAllowed : keepRefused) })
  }

  async #ask(token: string, verb: string, path: string): Promise<Verdict> {
    const { timeoutMs = 5000 } = this.#options
    const signal = AbortSignal.timeout(timeoutMs)
    const known = await this.#create('token', 'TokenReview', { token }, signal)
    if (known.authenticated !== true || !isJson(known.user)) return 'unknown'
    const { username, uid, groups, extra } = known.user
    const spec = { user: username, uid, groups, extra, nonResourceAttributes: { path, verb } }
    const access = await this.#create('access', 'SubjectAccessReview', spec, signal)
    return access.allowed === true && access.denied !== true ? 'allowed' : 'forbidden'
  }

  /** Makes a review; answers its status. */
  async #create(which: keyof typeof reviews, kind: string, spec: Json, signal: AbortSignal): Promise<Json> {
    const { path, right } = reviews[which]
    const [, , group, version] = path.split('/')
    const body = JSON.stringify({ apiVersion: `${group}/${version}`, kind, spec })
    const { status, text } = await this.#post(path, body, signal)
    if (status === 403) {
      const advice = `the daemon's service account needs create of ${right}`
      throw new ProxyError('API', `${kind}: the API server answers 403`, { object: path, operation: 'create', advice })
    }
    let answer: unknown
    try {
      answer = JSON.parse(text)
    } catch {
      // Not from the API server itself.
    }
    if (status < 300 && isJson(answer) && isJson(answer.status)) return answer.status
    throw new ProxyError('API', `${kind}: the API server answers ${status}`, { object: path, operation: 'create' })
  }

  async #post(path: string, body: string, signal: AbortSignal): Promise<{ status: number; text: string }> {
    const { client } = this.#options
    for (let again = true; ; again = false) {
      const response = await client.send('POST', path, 'application/json', body, signal)
      try {
        // The first 401 may only mean that our own token has rotated: the next request reads it anew.
        if (response.status === 401 && again) continue
        const parts: Buffer[] = []
        let length = 0
        for await (const chunk of response.body) {
          length += chunk.length
          if (length > 1_000_000) throw new ProxyError('API', `${path}: an answer of more than a megabyte`)
          parts.push(chunk)
        }
        return { status: response.status, text: Buffer.concat(parts).toString('utf8') }
      } finally {
        response.destroy()
      }
    }
  }
}
