import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

interface Field {
  readonly type: string
  readonly isRequired: boolean
}

const folder = join(dirname(createRequire(import.meta.url).resolve('@kubernetes/client-node')), 'gen/models')
const known = new Map<string, ReadonlyMap<string, Field> | undefined>()

/** Fields of a type of the API, as the declarations of the Kubernetes client have them; they are generated from its OpenAPI. */
function fieldsOf(type: string): ReadonlyMap<string, Field> | undefined {
  if (known.has(type)) return known.get(type)
  const path = join(folder, `${type}.d.ts`)
  const lines = existsSync(path)
    ? [...readFileSync(path, 'utf8').matchAll(/^ {4}'(\w+)'(\??): (\{[^}]*\}|[^;{]*);$/gm)]
    : []
  const fields = lines.map(([, name, optional, text]) => [name!, { type: text!, isRequired: optional === '' }] as const)
  known.set(type, existsSync(path) ? new Map(fields) : undefined)
  return known.get(type)
}

/** What of a value is not as the API has that type: unknown and missing fields, and values of another kind. */
export function mistakes(value: unknown, type: string, path = type): readonly string[] {
  const wrong = (what: string): readonly string[] => [`${path}: ${JSON.stringify(value)} is no ${what}`]
  const list = /^Array<(.+)>$/.exec(type)?.[1]
  if (list !== undefined) {
    return Array.isArray(value) ? value.flatMap((one, i) => mistakes(one, list, `${path}[${i}]`)) : wrong('list')
  }
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
  const map = /^\{\s*\[key: string\]: (.+);\s*\}$/.exec(type)?.[1]
  if (map !== undefined) {
    if (!isObject) return wrong('map')
    return Object.entries(value).flatMap(([key, one]) => mistakes(one, map, `${path}.${key}`))
  }
  if (type === 'string' || type === 'number' || type === 'boolean') return typeof value === type ? [] : wrong(type)
  if (type === 'IntOrString') return ['string', 'number'].includes(typeof value) ? [] : wrong('number or text')
  if (type === 'any') return []
  const fields = fieldsOf(type)
  if (fields === undefined) return [`${path}: the type ${type} is not known`]
  if (!isObject) return wrong(type)
  const missing = [...fields].filter(([name, { isRequired }]) => isRequired && !(name in value))
  return [
    ...missing.map(([name]) => `${path}.${name} is missing`),
    ...Object.entries(value).flatMap(([name, one]) => {
      const field = fields.get(name)
      return field === undefined ? [`${path}.${name} is no field`] : mistakes(one, field.type, `${path}.${name}`)
    }),
  ]
}
