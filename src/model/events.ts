/** What an operator must see where he looks first: an Event object of the cluster (events.k8s.io/v1). */
export interface EventFacts {
  readonly type: 'Normal' | 'Warning'
  /** Why, in CamelCase: "SetFull". */
  readonly reason: string
  /** What was done or failed, in CamelCase: "Sync". */
  readonly action: string
  readonly note: string
  /** The object that it is about; the own Node where absent. */
  readonly regarding?: EventObject
}

export interface EventObject {
  readonly kind: string
  readonly apiVersion: string
  readonly namespace?: string
  readonly name: string
}

export interface Events {
  /** Never throws, never waits. */
  report(facts: EventFacts): void
}

/** Without an API server there is nobody to tell. */
export const noEvents: Events = { report: () => {} }
