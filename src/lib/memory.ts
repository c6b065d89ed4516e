import { setFlagsFromString } from 'node:v8'

/**
 * Has V8 keep its heap small from here on. A start is quicker with room to spare, which V8 would never give back; after it
 * the heap hardly changes, and collecting early costs little.
 */
export function keepHeapSmall(): void {
  setFlagsFromString('--optimize-for-size')
  setFlagsFromString('--heap-growing-percent=10')
}
