const powers = (count: number, first: number, factor: number): number[] =>
  Array.from({ length: count }, (_, n) => first * factor ** n)

/** 1 ms doubling to 16.4 s, as upstream's sync durations. */
export const syncBuckets = powers(15, 0.001, 2)

/** As upstream's network programming latency: fine below a minute, coarse up to five. */
export const programmingBuckets = [
  0.25,
  0.5,
  ...Array.from({ length: 59 }, (_, n) => n + 1),
  ...Array.from({ length: 12 }, (_, n) => 60 + 5 * n),
  ...Array.from({ length: 7 }, (_, n) => 120 + 30 * n),
]

/** Of client-go. */
export const requestDurationBuckets = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60]
export const requestSizeBuckets = [64, 256, 512, ...powers(8, 1024, 4)]

/** A netlink request takes tens of microseconds, a restore of rules seconds. */
export const kernelCallBuckets = powers(9, 0.0001, 4).map((bound) => Number(bound.toPrecision(5)))
