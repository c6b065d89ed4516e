/** "12,345" */
export function count(value: number): string {
  return Math.round(value)
    .toString()
    .replaceAll(/\B(?=(\d{3})+$)/g, ',')
}

/** "1 Service", "2 Services" */
export function counted(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`
}

/** "0.4 ms", "12 ms", "1.2 s", "3 min 20 s", "5 h 2 min", "3 d 4 h" */
export function duration(milliseconds: number): string {
  if (milliseconds < 9.95) return `${milliseconds.toFixed(1)} ms`
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`
  if (milliseconds < 9950) return `${(milliseconds / 1000).toFixed(1)} s`
  const seconds = Math.round(milliseconds / 1000)
  const units = [
    [86_400, 'd'],
    [3600, 'h'],
    [60, 'min'],
    [1, 's'],
  ] as const
  const largest = units.findIndex(([length]) => seconds >= length)
  return units
    .slice(largest, largest + 2)
    .map(([length, name], i) => {
      const before = i === 0 ? seconds : seconds % units[largest]![0]
      return [Math.floor(before / length), name] as const
    })
    .filter(([value], i) => i === 0 || value > 0)
    .map(([value, name]) => `${value} ${name}`)
    .join(' ')
}

/** "2026-11-21 17:42:29", in UTC. */
export function time(milliseconds: number): string {
  return new Date(milliseconds).toISOString().slice(0, 19).replace('T', ' ')
}

/** "17:42:29", in UTC. */
export function clock(milliseconds: number): string {
  return time(milliseconds).slice(11)
}
