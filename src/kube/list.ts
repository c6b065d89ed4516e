import { ProxyError } from '../lib/errors.ts'
import type { Client, Response } from './client.ts'
import { ListSplitter } from './list-splitter.ts'
import { isJson } from './translate.ts'

export interface Listing {
  /** "/api/v1/services" */
  readonly path: string
  readonly labelSelector?: string
  readonly fieldSelector?: string
  /** Where the server does not know the field selector, all objects will do. */
  readonly fieldSelectorOptional?: boolean
}

/**
 * One plain list, page after page: each object as it comes. Throws ProxyError API with what the server said; whoever wants
 * to follow takes a `Reflector`.
 */
export async function listObjects(
  client: Pick<Client, 'get'>,
  listing: Listing,
  onObject: (object: unknown) => void,
  signal: AbortSignal,
): Promise<void> {
  let next: string | undefined
  do {
    const response = await client.get(urlOf(listing, next), signal)
    try {
      const refused = response.status === 400 || response.status === 422
      if (refused && next === undefined && listing.fieldSelectorOptional) {
        const { fieldSelector: _unknown, fieldSelectorOptional: _none, ...rest } = listing
        return await listObjects(client, rest, onObject, signal)
      }
      if (response.status !== 200) throw await refusal(listing.path, response)
      next = await readPage(response, onObject)
    } finally {
      response.destroy()
    }
  } while (next !== undefined)
}

/** Version 0: what the server has at hand will do, and costs etcd nothing. */
function urlOf({ path, labelSelector, fieldSelector }: Listing, next: string | undefined): string {
  const query = new URLSearchParams(next === undefined ? { resourceVersion: '0' } : { continue: next })
  if (labelSelector !== undefined) query.set('labelSelector', labelSelector)
  if (fieldSelector !== undefined) query.set('fieldSelector', fieldSelector)
  return `${path}?${query.toString()}`
}

/** Answers the token of the next page. */
async function readPage(response: Response, onObject: (object: unknown) => void): Promise<string | undefined> {
  const splitter = new ListSplitter((json) => onObject(JSON.parse(json)))
  for await (const chunk of response.body) splitter.push(chunk)
  const { metadata } = splitter.end()
  const token = isJson(metadata) ? metadata.continue : undefined
  return typeof token === 'string' && token !== '' ? token : undefined
}

async function refusal(path: string, response: Response): Promise<ProxyError> {
  const parts: Buffer[] = []
  for await (const chunk of response.body) if (parts.length < 16) parts.push(chunk)
  let said = Buffer.concat(parts).toString('utf8').trim().slice(0, 200)
  try {
    const status: unknown = JSON.parse(said)
    if (isJson(status) && typeof status.message === 'string') said = status.message
  } catch {
    // Not from the API server itself.
  }
  return new ProxyError('API', `list ${path}: ${response.status}: ${said || 'no message'}`, {
    object: path,
    operation: 'list',
  })
}
