import type { Random } from '../../random.ts'
import { serviceObject, sliceObject } from '../lab.ts'

/** One Service of the campaign; its objects follow from this alone. */
export interface Model {
  readonly number: number
  /** Addresses of its endpoints. */
  readonly endpoints: readonly string[]
  /** Whether it is a LoadBalancer, for clients of `nearRange` only. */
  readonly isRanged: boolean
  readonly isNodePort: boolean
}

/** Pods that there are; clients ask the first Services, which have no other endpoints. */
export const pods = ['10.244.1.11', '10.244.1.12', '10.244.1.13', '10.244.1.14']
export const near = '10.0.2.9'
export const far = '10.0.2.200'
const nearRange = '10.0.2.0/25'

/** CRASH_FILES: fifty Services each, a thousand in all unless said otherwise. */
const size = { files: Number(process.env.CRASH_FILES ?? 20), perFile: 50, asked: 2 }
export const files = size.files

export function clusterIP(number: number): string {
  return `10.96.${1 + (number >> 7)}.${1 + (number & 127)}`
}

export function loadBalancerIP(number: number): string {
  return `203.0.${113 + (number >> 7)}.${1 + (number & 127)}`
}

/** Whether clients ask it: the first few of each file. */
export function isAsked({ number }: Model): boolean {
  return number % size.perFile < size.asked
}

export function randomModel(random: Random, number: number): Model {
  const asked = number % size.perFile < size.asked
  const anywhere = Array.from({ length: 8 }, (_, i) => `10.244.${2 + (number % 200)}.${10 + i}`)
  return {
    number,
    endpoints: asked ? random.some(pods, random.between(1, 3)) : random.some(anywhere, random.between(0, 5)),
    isRanged: random.chance(asked ? 0.5 : 0.1),
    isNodePort: random.chance(0.05),
  }
}

/** The Services of one file. */
export function numbersOf(file: number): readonly number[] {
  return Array.from({ length: size.perFile }, (_, i) => file * size.perFile + i)
}

export function objectsOf({ number, endpoints, isRanged, isNodePort }: Model): unknown[] {
  const name = `service-${number}`
  const ports = (extra: object): unknown => [{ port: 80, protocol: 'TCP', ...extra }]
  const spec = isRanged
    ? { type: 'LoadBalancer', loadBalancerSourceRanges: [nearRange], ports: ports({ nodePort: 30_000 + number }) }
    : isNodePort
      ? { type: 'NodePort', ports: ports({ nodePort: 30_000 + number }) }
      : {}
  const service = serviceObject({ name, clusterIP: clusterIP(number), spec }) as Record<string, unknown>
  if (isRanged) service.status = { loadBalancer: { ingress: [{ ip: loadBalancerIP(number) }] } }
  return [service, sliceObject(name, endpoints)]
}
