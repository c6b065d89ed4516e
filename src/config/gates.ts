import type { ProxyConfig } from './schema.ts'

/** Feature gates that do something here, with upstream's stage and default as of 1.36. */
export const gatesInUse = {
  ComponentFlagz: { stage: 'BETA', enabled: true },
  ComponentStatusz: { stage: 'BETA', enabled: true },
} as const

export type Gate = keyof typeof gatesInUse

export function isEnabled(config: Pick<ProxyConfig, 'featureGates'>, gate: Gate): boolean {
  return config.featureGates[gate] ?? gatesInUse[gate].enabled
}

/** All gates that there is something to say of: those in use, and those that the configuration names. */
export function knownGates({
  featureGates,
}: Pick<ProxyConfig, 'featureGates'>): ReadonlyMap<string, { readonly stage: string; readonly enabled: boolean }> {
  const gates = new Map<string, { stage: string; enabled: boolean }>(Object.entries(gatesInUse))
  for (const [name, enabled] of Object.entries(featureGates)) {
    gates.set(name, { stage: gates.get(name)?.stage ?? '', enabled })
  }
  return gates
}
