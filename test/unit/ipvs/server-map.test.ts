import { expect, test } from 'vitest'
import { ServerMap } from '../../../src/ipvs/server-map.ts'
import { DestinationList } from '../../../src/model/destination-list.ts'

interface One {
  readonly destinations: DestinationList
  readonly foreign: boolean
}

const one = (count: number, foreign = false): One => ({
  destinations: DestinationList.of(
    Array.from({ length: count }, (_, n) => ({ address: `10.0.0.${n}`, port: 80, weight: 1 })),
  ),
  foreign,
})

test.each<[string, (map: ServerMap<One>) => unknown, number, number]>([
  ['nothing', () => {}, 0, 0],
  ['two servers', (map) => map.set('a', one(3)).set('b', one(0)), 2, 3],
  ['one replaced', (map) => map.set('a', one(3)).set('a', one(5)), 1, 5],
  ['one deleted, twice', (map) => (map.set('a', one(3)).set('b', one(2)), map.delete('a'), map.delete('a')), 1, 2],
  ['one that does not count', (map) => map.set('a', one(3)).set('b', one(7, true)), 1, 3],
  ['one that comes to count', (map) => map.set('a', one(3, true)).set('a', one(4)), 1, 4],
  ['one that no longer counts', (map) => map.set('a', one(3)).set('a', one(4, true)), 0, 0],
])('%s', (_name, act, servers, destinations) => {
  const map = new ServerMap<One>(({ foreign }) => !foreign)
  act(map)
  expect([map.serverCount, map.destinationCount]).toEqual([servers, destinations])
})
