import type { KernelError } from '../lib/errors.ts'
import type { SetType } from '../model/sets.ts'
import { Connection, type Message } from '../netlink/connection.ts'
import { errno, kernelError } from '../netlink/errno.ts'
import { protocols } from '../netlink/header.ts'
import { entryText, isEntry } from './entries.ts'
import type { Ipset, ObservedSet, SetDigest, SetSpec } from './ipset.ts'
import {
  changeEntriesMessage,
  createMessage,
  decodeCommand,
  decodeSet,
  destroyMessage,
  entriesPerMessage,
  entryError,
  failedLine,
  headersMessage,
  ipsetError,
  knownRevisions,
  listMessage,
  malformedEntryError,
  namesMessage,
  protocolMessage,
  SetSurvey,
  swapMessage,
  typeMessage,
} from './messages.ts'

/** The kernel's ipset by nfnetlink. */
export class KernelIpset implements Ipset {
  readonly #connection: Connection
  readonly #revisions = new Map<SetType, number>()

  /** `connect` gives a connection of NETLINK_NETFILTER. */
  constructor(connect: () => Connection = () => Connection.open(protocols.netfilter)) {
    this.#connection = connect()
  }

  /** Opens the socket and has the kernel load ip_set; throws KernelError where it has none. */
  static async open(): Promise<KernelIpset> {
    const ipset = new KernelIpset()
    try {
      await ipset.protocol()
    } catch (error) {
      ipset.close()
      throw error
    }
    return ipset
  }

  async protocol(): Promise<number> {
    const reply = await this.#connection.request(protocolMessage())
    const [payload] = reply.payloads
    const version = payload === undefined ? undefined : decodeCommand(payload).protocol
    if (reply.errno !== 0 || version === undefined) {
      throw kernelError(reply.errno === 0 ? errno.EPROTO : reply.errno, 'read', 'ipset protocol', 'modprobe ip_set')
    }
    return version
  }

  async loadType(spec: SetSpec): Promise<void> {
    await this.#revision(spec)
  }

  async create(spec: SetSpec): Promise<void> {
    await this.#do(createMessage(spec, await this.#revision(spec)), 'create', `set ${spec.name}`, spec)
  }

  add(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#change('add', set, entries)
  }

  remove(set: SetSpec, entries: readonly string[]): Promise<ReadonlyMap<string, KernelError>> {
    return this.#change('remove', set, entries)
  }

  async list(name: string): Promise<ObservedSet | undefined> {
    const reply = await this.#connection.dump(listMessage(name))
    if (reply.errno === errno.ENOENT) return undefined
    if (reply.errno !== 0) throw ipsetError(reply.errno, 'list', `set ${name}`)
    return decodeSet(reply.payloads, entryText)
  }

  async digest(name: string): Promise<SetDigest | undefined> {
    let survey = new SetSurvey()
    const result = await this.#connection.scan(listMessage(name), () => {
      const begun = (survey = new SetSurvey())
      return (answer) => begun.take(answer)
    })
    if (result !== 0 && result !== errno.ENOENT) throw ipsetError(result, 'list', `set ${name}`)
    return survey.digest
  }

  async sizes(): Promise<ReadonlyMap<string, number | undefined>> {
    const reply = await this.#connection.dump(headersMessage())
    if (reply.errno !== 0) throw ipsetError(reply.errno, 'list', 'headers of sets')
    const headers = reply.payloads.map((payload) => decodeCommand(payload))
    return new Map(headers.map(({ setName = '', data }) => [setName, data?.elements]))
  }

  async names(): Promise<readonly string[]> {
    const reply = await this.#connection.dump(namesMessage())
    if (reply.errno !== 0) throw ipsetError(reply.errno, 'list', 'names of sets')
    return reply.payloads.flatMap((payload) => decodeCommand(payload).setName ?? [])
  }

  async swap(from: string, to: string): Promise<void> {
    await this.#do(swapMessage(from, to), 'swap', `set ${from} with ${to}`)
  }

  async destroy(name: string): Promise<void> {
    const reply = await this.#connection.request(destroyMessage(name))
    // Kernels differ in whether an absent set is an error here.
    if (reply.errno !== 0 && reply.errno !== errno.ENOENT) throw ipsetError(reply.errno, 'destroy', `set ${name}`)
  }

  close(): void {
    this.#connection.close()
  }

  async #change(
    kind: 'add' | 'remove',
    set: SetSpec,
    entries: readonly string[],
  ): Promise<ReadonlyMap<string, KernelError>> {
    const operation = kind === 'add' ? 'add' : 'delete'
    const refused = new Map<string, KernelError>()
    for (const text of entries) if (!isEntry(set, text)) refused.set(text, malformedEntryError(operation, text, set))
    const sound = refused.size === 0 ? entries : entries.filter((text) => !refused.has(text))
    const refuse = (entry: string, value: number): void => {
      refused.set(entry, entryError(value, operation, entry, set))
    }
    const chunks: (readonly string[])[] = []
    const size = entriesPerMessage(set)
    for (let from = 0; from < sound.length; from += size) chunks.push(sound.slice(from, from + size))
    // What follows a bad entry in its message was not looked at. It goes again one entry a message: where one is
    // bad, many may be (a full set), and another round per bad entry would take time in the square of them.
    const rest = await this.#send(kind, set, chunks, refuse)
    const single = rest.map((entry) => [entry])
    await this.#send(kind, set, single, refuse)
    return refused
  }

  /** Sends chunks; answers the entries that stand behind a bad one of their chunk. */
  async #send(
    kind: 'add' | 'remove',
    set: SetSpec,
    chunks: readonly (readonly string[])[],
    refuse: (entry: string, value: number) => void,
  ): Promise<string[]> {
    const lines = new Map<number, number>()
    const messages = chunks.map((chunk) => changeEntriesMessage(kind, set, chunk))
    const results = await this.#connection.batch(messages, (index, _value, echo) => lines.set(index, failedLine(echo)))
    return chunks.flatMap((chunk, index) => {
      const result = results[index] ?? 0
      if (result === 0) return []
      const line = lines.get(index) ?? 0
      const bad = chunk[line - 1]
      // No line: the set itself is the matter, and with it every entry.
      for (const entry of bad === undefined ? chunk : [bad]) refuse(entry, result)
      return bad === undefined ? [] : chunk.slice(line)
    })
  }

  async #revision(spec: SetSpec): Promise<number> {
    const known = this.#revisions.get(spec.type)
    if (known !== undefined) return known
    const reply = await this.#connection.request(typeMessage(spec))
    if (reply.errno !== 0) throw ipsetError(reply.errno, 'create', `set ${spec.name}`, spec)
    const [payload] = reply.payloads
    const newest = payload === undefined ? 0 : (decodeCommand(payload).revision ?? 0)
    const revision = Math.min(newest, knownRevisions.get(spec.type) ?? newest)
    this.#revisions.set(spec.type, revision)
    return revision
  }

  async #do(message: Message, operation: string, object: string, set?: SetSpec): Promise<void> {
    const reply = await this.#connection.request(message)
    if (reply.errno !== 0) throw ipsetError(reply.errno, operation, object, set)
  }
}
