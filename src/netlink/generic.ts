import { attributes, text, u16, type Writer } from './attributes.ts'
import type { Connection, Message } from './connection.ts'
import { errno, kernelError } from './errno.ts'

/** struct genlmsghdr of linux/genetlink.h: command u8, version u8, 2 bytes reserved. */
export const genericHeaderLength = 4

/** GENL_ID_CTRL and CTRL_CMD_GETFAMILY of linux/genetlink.h. */
const controller = { family: 0x10, getFamily: 3 } as const

/** CTRL_ATTR_* of linux/genetlink.h. */
export const familyAttributes = attributes('generic family', { id: [1, u16], name: [2, text] })

/** A message of a generic netlink family. */
export function genericMessage(family: number, command: number, write?: (writer: Writer) => void): Message {
  return {
    type: family,
    write: (writer) => {
      writeGenericHeader(writer, command)
      write?.(writer)
    },
  }
}

/** The header of a command, of the version that all families here have. */
export function writeGenericHeader(writer: Writer, command: number): void {
  const at = writer.reserve(genericHeaderLength)
  writer.word32(at, command | (1 << 8))
}

/** The id under which the kernel knows a generic netlink family; asking loads its module. */
export async function resolveFamily(connection: Connection, name: string, module: string): Promise<number> {
  const reply = await connection.request(
    genericMessage(controller.family, controller.getFamily, (writer) => familyAttributes.write(writer, { name })),
  )
  const object = `generic netlink family "${name}"`
  const [payload] = reply.payloads
  const id = payload === undefined ? undefined : familyAttributes.decode(payload, genericHeaderLength).id
  if (reply.errno !== 0 || id === undefined) {
    throw kernelError(reply.errno === 0 ? errno.ENOENT : reply.errno, 'find', object, `modprobe ${module}`)
  }
  return id
}
