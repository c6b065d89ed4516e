import { expect, test } from 'vitest'
import { familyOf, type Family } from '../../../src/model/address.ts'
import {
  addressOf,
  bridgeOf,
  families,
  nodeOf,
  nodes,
  serviceAddress,
  type Actor,
  type Network,
  type NodeName,
  type Pod,
  type ServiceAddress,
  type Transport,
} from './network.ts'
import { nodePortOf, type ServiceShape } from './service.ts'

/** A kind of service address; or a node: the node port there. */
export type Target = ServiceAddress | NodeName

/** Whom a pod takes for the client: the one who asked, an address of the Service, or the node that masqueraded. */
export type Seen = 'kept' | 'service address' | NodeName

/** Pods that answer, each as often as the others; or what everybody gets instead of an answer. */
export type Answer = readonly Pod[] | 'refused' | 'no route' | 'timeout'

/** `seen` is "-" where no pod answers; TCP and UDP where no transports are named. */
export type Row = readonly [
  name: string,
  from: Actor,
  to: Target,
  answer: Answer,
  seen: Seen | '-',
  transports?: readonly Transport[],
]

export interface Case {
  readonly name: string
  readonly from: Actor
  readonly to: Target
  readonly answer: Answer
  readonly seen: Seen | '-'
  readonly family: Family
  readonly transport: Transport
}

/** Every transport over every family. */
export function paths(transports: readonly Transport[] = ['TCP', 'UDP']): { transport: Transport; family: Family }[] {
  return families.flatMap((family) => transports.map((transport) => ({ transport, family })))
}

/** Address and port of a Service's target. */
export function placeOf({ number }: ServiceShape, to: Target, family: Family): { address: string; port: number } {
  if (to === 'node-a' || to === 'node-b') return { address: addressOf(to, family), port: nodePortOf(number) }
  return { address: serviceAddress(to, number, family), port: 80 }
}

/** The client address that a pod sees. */
function clientSeen(service: ServiceShape, { from, to, seen, family }: Case, pod: Pod): string {
  // A pod that asks itself is always masqueraded: its answer would never pass the node otherwise.
  if (seen === 'kept') return from === pod ? bridgeOf(nodeOf(pod), family) : addressOf(from, family)
  if (seen === 'service address') return placeOf(service, to, family).address
  if (seen === '-') throw new Error('say what the pods see')
  return nodeOf(pod) === seen ? bridgeOf(seen, family) : addressOf(seen, family)
}

function answersOf(service: ServiceShape, one: Case, answer: readonly Pod[]): string[] {
  return answer.map((pod) => `${pod} ${clientSeen(service, one, pod)} 8080`)
}

/** Milliseconds without an answer that mean there will be none: nothing is lost between namespaces. */
export const silence = 1500

/** Two rounds of the scheduler: every pod answers twice, or every attempt fails alike. */
async function check(network: Network, service: ServiceShape, one: Case): Promise<void> {
  const { from, to, answer, transport, family } = one
  const question = { transport, ...placeOf(service, to, family) }
  if (typeof answer === 'string') {
    const limited = answer === 'timeout' ? { ...question, timeout: silence } : question
    expect(await network.askMany(from, 2, limited)).toEqual([answer, answer])
    return
  }
  const wanted = answersOf(service, one, answer)
  // Each SCTP question is a process, so one round has to do.
  const all = transport === 'SCTP' ? wanted : [...wanted, ...wanted]
  const got = await network.askMany(from, all.length, question)
  expect(got, got.includes('timeout') ? connections(network, question.address) : '').toEqual(all.sort())
}

/** What the nodes know of connections to an address: it is gone by the time somebody reads of a failure. */
function connections(network: Network, address: string): string {
  return nodes
    .map((name) => {
      const family = familyOf(address).toLowerCase()
      const tracked = network.namespace(name).run('conntrack', '-L', '-f', family, '-d', address)
      const listed = network.namespace(name).run('ipvsadm', '-Lcn').split('\n')
      return [name, tracked, ...listed.filter((line) => line.includes(address))].join('\n')
    })
    .join('\n')
}

/** One test for each row, transport and family. */
export function testRows(network: () => Network, service: ServiceShape, rows: readonly Row[]): void {
  const cases = rows.flatMap(([name, from, to, answer, seen, transports]) =>
    paths(transports).map((path): Case => ({ name, from, to, answer, seen, ...path })),
  )
  // Side by side where most of the time is waiting. Not where pods answer: rows of one virtual server would get in each
  // other's round.
  const waits = cases.filter(({ answer }) => typeof answer === 'string')
  const answers = cases.filter((one) => !waits.includes(one))
  if (answers.length > 0) {
    test.each(answers)('$name, $transport over $family', (one) => check(network(), service, one))
  }
  if (waits.length > 0) {
    test.concurrent.each(waits)('$name, $transport over $family', (one) => check(network(), service, one))
  }
}

/** Until a Service answers as the row says, over both families: TCP where the row does not say. */
export async function settles(
  network: Network,
  service: ServiceShape,
  [name, from, to, answer, seen, transports = ['TCP']]: Row,
): Promise<void> {
  await Promise.all(
    paths(transports).map(({ transport, family }) => {
      const one = { name, from, to, answer, seen, transport, family }
      const wanted = typeof answer === 'string' ? [answer] : answersOf(service, one, answer)
      return network.becomes(from, { transport, ...placeOf(service, to, family) }, wanted)
    }),
  )
}
