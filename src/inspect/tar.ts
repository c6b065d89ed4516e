import { ProxyError } from '../lib/errors.ts'

export interface TarFile {
  /** At most 100 bytes, "/" between folders. */
  readonly name: string
  readonly content: string
}

const blockSize = 512

/** An archive in the form of POSIX ustar (IEEE Std 1003.1, pax): plain files of mode 0644, of nobody in particular. */
export function tarArchive(files: readonly TarFile[], modified: Date): Buffer {
  const seconds = Math.floor(modified.getTime() / 1000)
  const parts: Buffer[] = []
  for (const { name, content } of files) {
    const body = Buffer.from(content, 'utf8')
    parts.push(header(name, body.length, seconds), body, Buffer.alloc(-body.length & (blockSize - 1)))
  }
  // Two blocks of zeros end the archive.
  parts.push(Buffer.alloc(2 * blockSize))
  return Buffer.concat(parts)
}

function header(name: string, size: number, seconds: number): Buffer {
  const block = Buffer.alloc(blockSize)
  const bytes = Buffer.from(name, 'utf8')
  if (bytes.length === 0 || bytes.length > 100) {
    throw new ProxyError('CODEC', `a name of ${bytes.length} bytes does not fit into an archive: ${name}`)
  }
  bytes.copy(block, 0)
  octal(block, 100, 8, 0o644)
  octal(block, 108, 8, 0)
  octal(block, 116, 8, 0)
  octal(block, 124, 12, size)
  octal(block, 136, 12, seconds)
  // The sum is made with blanks in its own place.
  block.fill(' ', 148, 156)
  block.write('0', 156)
  block.write('ustar\u000000', 257, 'latin1')
  let sum = 0
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}

/** Digits with zeros before them and a NUL after. */
function octal(block: Buffer, at: number, length: number, value: number): void {
  block.write(value.toString(8).padStart(length - 1, '0'), at, 'latin1')
}
