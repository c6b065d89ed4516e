/** The pages of component-base that tell a person about a process. Upstream warns programs not to read them; so do we. */
const warning =
  'Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.'

const component = 'kube-proxy'

export interface StatusFacts {
  /** Milliseconds since the epoch. */
  readonly startedAt: number
  readonly now: number
  readonly version: string
  /** Further lines: name and value. */
  readonly more: readonly (readonly [string, string])[]
}

/** /statusz */
export function statusPage({ startedAt, now, version, more }: StatusFacts): string {
  const lines = [
    ['Started', new Date(startedAt).toUTCString()],
    ['Up', uptime(now - startedAt)],
    // The word of upstream's page; there is no Go in it.
    ['Go version', `none, Node.js ${process.version}`],
    ['Binary version', version],
    ...more,
  ]
  return `\n${component} statusz\n${warning}\n\n${lines.map(([name, value]) => `${name}: ${value}\n`).join('')}`
}

/** /flagz: the flags by name with the values in force. */
export function flagPage(flags: ReadonlyMap<string, string>): string {
  const lines = [...flags].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => `${name}=${value}\n`)
  return `\n${component} flags\n${warning}\n\n${lines.join('')}`
}

/** "12 hr 04 min 09 sec" */
function uptime(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000)
  const two = (value: number): string => String(value).padStart(2, '0')
  return `${Math.floor(seconds / 3600)} hr ${two(Math.floor(seconds / 60) % 60)} min ${two(seconds % 60)} sec`
}

/**
 * /healthz of the metrics server, as the generic handler of Kubernetes' components answers it with its one check: "ok";
 * with `verbose` a line for each check; `exclude` leaves some out.
 */
export function checkPage(query: URLSearchParams): string {
  if (!query.has('verbose')) return 'ok'
  const excluded = new Set(query.getAll('exclude').flatMap((value) => value.split(',')))
  const lines = [excluded.delete('ping') ? '[+]ping excluded: ok' : '[+]ping ok']
  if (excluded.size > 0) {
    const names = [...excluded].map((name) => JSON.stringify(name)).join(', ')
    lines.push(`warn: some health checks cannot be excluded: no matches for ${names}`)
  }
  return `${lines.join('\n')}\nhealthz check passed\n`
}
