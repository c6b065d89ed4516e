import * as fc from 'fast-check'

/**
 * Inputs near real ones: a seed of the corpus with bytes flipped, cut, doubled, moved or replaced, lengths set to the edges of
 * their type, and parts of another seed spliced in; now and then bytes of pure chance.
 */
export function mutated(corpus: readonly Buffer[]): fc.Arbitrary<Buffer> {
  const edit = fc.tuple(fc.nat(7), fc.nat(0xffff), fc.nat(0xffff), fc.nat(0xff))
  const near = fc
    .tuple(fc.nat(corpus.length - 1), fc.nat(corpus.length - 1), fc.array(edit, { minLength: 1, maxLength: 6 }))
    .map(([one, other, edits]) => edits.reduce((bytes, step) => edited(bytes, corpus[other]!, step), corpus[one]!))
  return fc.oneof(
    { weight: 15, arbitrary: near },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((chance) => Buffer.from(chance)) },
  )
}

/** Values at which a length or a number changes its meaning. */
const edges = [0, 1, 3, 4, 5, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff]

export function edited(
  from: Buffer,
  other: Buffer,
  [kind, first, second, value]: readonly [number, number, number, number],
): Buffer {
  const bytes = Buffer.from(from)
  if (bytes.length === 0) return Buffer.from(other)
  const at = first % bytes.length
  const count = 1 + (second % 16)
  switch (kind) {
    case 0:
      bytes[at] = value
      return bytes
    case 1:
      bytes[at]! ^= 1 << (value & 7)
      return bytes
    case 2:
      return bytes.subarray(0, at)
    case 3:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + count)])
    case 4:
      return Buffer.concat([bytes.subarray(0, at + count), bytes.subarray(at)])
    case 5:
      if (at + 2 <= bytes.length) bytes.writeUInt16LE(edges[value % edges.length]!, at)
      return bytes
    case 6: {
      const start = second % Math.max(1, other.length)
      return Buffer.concat([bytes.subarray(0, at), other.subarray(start, start + 4 * count), bytes.subarray(at)])
    }
    default:
      return Buffer.concat([bytes.subarray(0, at), Buffer.alloc(count, value), bytes.subarray(at)])
  }
}

/** Values near a JSON value: members left out, repeated elsewhere, or of another type, at any depth. */
export function mutatedJson(corpus: readonly unknown[]): fc.Arbitrary<unknown> {
  const strange = fc.oneof(
    fc.constantFrom<unknown>(
      null,
      '',
      0,
      -1,
      1.5,
      65536,
      2 ** 53,
      true,
      [],
      {},
      '::',
      '10.0.0.300',
      '1'.repeat(300),
      '\u0000',
      '\n',
    ),
    fc.string({ maxLength: 20, unit: 'binary' }),
    fc.jsonValue({ maxDepth: 2 }),
  )
  return fc
    .tuple(
      fc.nat(corpus.length - 1),
      fc.array(fc.tuple(fc.nat(0xffff), fc.nat(3), strange), { minLength: 1, maxLength: 4 }),
    )
    .map(([one, edits]) => {
      const value = structuredClone(corpus[one]) as Record<string, unknown>
      for (const [path, kind, other] of edits) editJson(value, path, kind, other)
      return value
    })
}

function editJson(root: Record<string, unknown>, path: number, kind: number, other: unknown): void {
  const places: [Record<string, unknown>, string][] = []
  const walk = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    for (const key of Object.keys(value)) {
      places.push([value as Record<string, unknown>, key])
      walk((value as Record<string, unknown>)[key])
    }
  }
  walk(root)
  if (places.length === 0) return
  const [parent, key] = places[path % places.length]!
  if (kind === 0) delete parent[key]
  else if (kind === 1) parent[key] = [parent[key], other]
  else if (kind === 2) parent[`${key}x`] = other
  else parent[key] = other
}
