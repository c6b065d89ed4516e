/** The known word with the fewest edits, if it is near at all. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  // Of one or two letters anything is near.
  if (word.length < 3) return undefined
  let best: string | undefined
  let least = Math.max(2, word.length / 4)
  for (const candidate of known) {
    const cost = distance(word.toLowerCase(), candidate.toLowerCase())
    if (cost < least || (cost === least && best === undefined)) {
      best = candidate
      least = cost
    }
  }
  return best
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]!
}
