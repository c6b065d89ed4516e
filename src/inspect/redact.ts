import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse } from 'yaml'

const hidden = '[left out]'

/** Shorter texts are no secrets, and would be found in every other word. */
const shortest = 6

/** Members of a kubeconfig whose text proves who we are. */
const secretMembers: ReadonlySet<string> = new Set([
  'token',
  'password',
  'client-key-data',
  'client-certificate-data',
  'client-secret',
  'id-token',
  'refresh-token',
  'access-token',
  'idp-certificate-authority-data',
])

/** Members that name a file with such a text. */
const secretFiles: ReadonlySet<string> = new Set(['tokenFile', 'client-key'])

/** What looks like a secret wherever it stands. Of two groups the first is kept. */
const patterns: readonly RegExp[] = [
  /(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
  // A JSON web token: three parts in base64url, the first one an object.
  /()\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?/g,
  /(authorization["']?\s*[:=]\s*["']?)[^\r\n"']+/gi,
  /(\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}/gi,
  /(\b(?:token|password|passwd|secret|client-key-data|client-certificate-data|client-secret|refresh-token|access-token|id-token)["']?\s*[:=]\s*["']?)[^\s"',}]+/gi,
  // Credentials in a URL.
  /(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@:]+:[^\s/@]+@/gi,
]

/** A text without the secrets that are known and without what looks like one. */
export function redact(text: string, known: readonly string[] = []): string {
  let clean = text
  // As they are, and as they stand in JSON; the longest first, for one may be part of another.
  const forms = new Set(known.flatMap((secret) => [secret, JSON.stringify(secret).slice(1, -1)]))
  for (const form of [...forms].sort((a, b) => b.length - a.length)) clean = clean.replaceAll(form, hidden)
  for (const pattern of patterns) clean = clean.replace(pattern, `$1${hidden}`)
  return clean
}

/**
 * The secrets that a kubeconfig has or names, as they may turn up in what others say: tokens, passwords, keys, and the
 * environment and arguments of credential plug-ins, decoded where they are in base64. A file that cannot be read has none.
 */
export function kubeconfigSecrets(path: string): readonly string[] {
  let document: unknown
  try {
    document = parse(readFileSync(path, 'utf8'))
  } catch {
    return []
  }
  const found = new Set<string>()
  const note = (text: unknown): void => {
    if (typeof text !== 'string') return
    const word = text.trim()
    if (word.length >= shortest) found.add(word)
  }
  const users = isObject(document) && Array.isArray(document.users) ? (document.users as unknown[]) : []
  for (const entry of users) walk(isObject(entry) ? entry.user : undefined, dirname(path), note)
  return [...found]
}

function walk(value: unknown, folder: string, note: (text: unknown) => void): void {
  if (!isObject(value)) return
  for (const [name, member] of Object.entries(value)) {
    if (name === 'exec' && isObject(member)) noteExec(member, note)
    else if (secretMembers.has(name)) {
      note(member)
      if (typeof member === 'string' && name.endsWith('-data')) note(Buffer.from(member, 'base64').toString('utf8'))
    } else if (secretFiles.has(name) && typeof member === 'string') note(contentOf(resolve(folder, member)))
    else walk(member, folder, note)
  }
}

/** A plug-in's environment and arguments may carry whatever it needs to prove who it is. */
function noteExec(exec: Readonly<Record<string, unknown>>, note: (text: unknown) => void): void {
  if (Array.isArray(exec.args)) for (const one of exec.args as unknown[]) note(one)
  if (!Array.isArray(exec.env)) return
  for (const one of exec.env as unknown[]) if (isObject(one)) note(one.value)
}

function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
