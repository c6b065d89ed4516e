// Forecasts against packets: in each state of node-a, in good order or broken, random questions are first explained and
// then asked.
import { Random } from '../../random.ts'
import { serviceObjects, type ServiceShape } from '../traffic/service.ts'
import { randomProbe, randomService } from './combinations.ts'
import { randomFaults, readStanding, type Fault } from './faults.ts'
import { ExplainLab, forecast } from './lab.ts'

export interface CampaignOptions {
  readonly seed: number
  /** Ends with the first state that comes to so many. */
  readonly combinations: number
  readonly perState: number
  /** Or with the first that ends after so many. */
  readonly seconds?: number
  readonly onState?: (done: number) => void
}

export interface CampaignResult {
  readonly seed: number
  readonly combinations: number
  readonly states: number
  /** Those of a state in good order. */
  readonly healthy: number
  /** By verdict. */
  readonly verdicts: Readonly<Record<string, number>>
  /** Forecasts that name more than one outcome, of which one came; and packets that go on to another machine: not asked. */
  readonly cannotTell: number
  readonly leaves: number
  readonly seconds: number
  /** As text, with the explanation and what was broken. */
  readonly mistakes: readonly string[]
}

/** Services of a seed: to be in the lab's folder. */
export function randomServices(seed: number, count: number, from = 1): readonly ServiceShape[] {
  const random = new Random(seed)
  return Array.from({ length: count }, (_, i) => randomService(random, from + i))
}

/** Asks questions of random actors to Services of a lab. */
export async function runCampaign(
  lab: ExplainLab,
  shapes: readonly ServiceShape[],
  { seed, combinations, perState, seconds: most = Number.POSITIVE_INFINITY, onState }: CampaignOptions,
): Promise<CampaignResult> {
  const began = Date.now()
  const random = new Random(seed ^ 0x5bd1e995)
  const standing = readStanding((lines) => lab.shell(lines))
  const verdicts: Record<string, number> = {}
  const mistakes: string[] = []
  let [done, states, healthy, cannotTell, leaves] = [0, 0, 0, 0, 0]
  const elapsed = (): number => Math.round((Date.now() - began) / 1000)
  while (done < combinations && elapsed() < most) {
    const shape = random.pick(shapes)
    const probes = Array.from({ length: perState }, () =>
      randomProbe(random, random.chance(0.8) ? shape : random.pick(shapes)),
    )
    const faults = randomFaults(random, shape, standing, probes)
    const broken: Fault[] = []
    try {
      for (const fault of faults) if (isDone(lab, fault)) broken.push(fault)
      const answers = await lab.explain(probes)
      for (const [i, { explanation }] of answers.entries()) {
        const { texts, isCertain } = forecast(explanation, probes[i]!.family)
        if (texts.includes('leaves')) leaves++
        else if (!isCertain) cannotTell++
        verdicts[explanation.verdict.code] = (verdicts[explanation.verdict.code] ?? 0) + 1
      }
      const wrong = await lab.mistakes(probes, answers)
      const state = broken.flatMap(({ by }) => by).join('\n') || 'in good order'
      mistakes.push(...wrong.map((text) => `state ${states} of seed ${seed}:\n${state}\n${text}`))
    } finally {
      for (const { undo } of broken.toReversed()) lab.shell(undo)
    }
    done += probes.length
    states++
    if (broken.length === 0) healthy += probes.length
    onState?.(done)
  }
  return { seed, combinations: done, states, healthy, verdicts, cannotTell, leaves, seconds: elapsed(), mistakes }
}

/** Whether the fault could be made: what it takes away may not be there. */
function isDone(lab: ExplainLab, { by }: Fault): boolean {
  try {
    lab.shell(by)
    return by.length > 0
  } catch {
    return false
  }
}

export async function startCampaign(options: CampaignOptions, services: number): Promise<CampaignResult> {
  const shapes = randomServices(options.seed, services)
  const lab = await ExplainLab.start(shapes.flatMap((shape) => serviceObjects(shape)))
  try {
    return await runCampaign(lab, shapes, options)
  } finally {
    await lab.end()
  }
}
