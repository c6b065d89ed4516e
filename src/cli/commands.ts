/** Commands beside the daemon: each reads the kernel or the cluster's objects, and none needs the daemon alive. */
export const commandNames = [
  'status',
  'diff',
  'plan',
  'conns',
  'doctor',
  'explain',
  'trace',
  'migrate',
  'support-bundle',
] as const

export type CommandName = (typeof commandNames)[number]

export interface OptionSpec {
  readonly about: string
  /** What a value must look like, and how that is said. */
  readonly form?: { readonly pattern: RegExp; readonly allowed: string }
  /** May be given several times; the values are joined by commas. */
  readonly many?: true
  /** Takes no value. */
  readonly isSwitch?: true
}

export interface CommandSpec {
  readonly about: string
  /** In the list of commands. */
  readonly short: string
  /** The word after the command; none: there must not be one. */
  readonly argument?: {
    readonly name: string
    readonly about: string
    /** The words that it may be; any where absent. */
    readonly words?: readonly string[]
  }
  /** Own options beside those of the daemon. */
  readonly options: Readonly<Record<string, OptionSpec>>
}

const output: OptionSpec = {
  about: 'text or json',
  form: { pattern: /^(text|json)$/, allowed: 'text or json' },
}

const fromApi: OptionSpec = {
  about:
    'work out what is wanted from the API server (or --manifests) even where the daemon could say it: a check of the daemon',
  isSwitch: true,
}

export const commands: Readonly<Record<CommandName, CommandSpec>> = {
  status: {
    about: 'What is wanted, what the kernel has, and what goes on around it.',
    short: 'wanted and present state, drift, sysctls',
    options: { output, 'from-api': fromApi },
  },
  diff: {
    about: 'What is wanted against what the kernel has. Exit code 1 where they differ, 0 where they do not.',
    short: 'wanted against kernel; exit code 1 where they differ',
    options: { output, 'from-api': fromApi },
  },
  plan: {
    about: 'What would be programmed for these objects, in the forms of ipvsadm, ipset and iptables; needs no kernel.',
    short: 'what manifests would come to in the kernel',
    options: {
      output,
      'node-address': {
        about: "an address of the node's own links; given several times, or the Node object's addresses",
        many: true,
      },
    },
  },
  conns: {
    about: 'The IPVS connections of one Service, with the pods that they go to.',
    short: 'IPVS connections of a Service, with pods',
    argument: { name: 'SERVICE', about: '[NAMESPACE/]NAME of a Service; the namespace is "default" where left out' },
    options: {
      output,
      limit: {
        about: 'show so many connections at most, 0: all',
        form: { pattern: /^\d{1,9}$/, allowed: 'a whole number' },
      },
    },
  },
  doctor: {
    about: 'Looks for known traps of IPVS mode on this node. Exit code 1 where one is an error.',
    short: 'looks for known traps on this node',
    options: { output, 'from-api': fromApi },
  },
  explain: {
    about: "A packet's way to a Service or an address, and where it stops.",
    short: 'a packet’s way, and where it stops',
    argument: { name: 'TARGET', about: 'a Service, [NAMESPACE/]NAME[:PORT], or ADDRESS:PORT[/PROTOCOL]' },
    options: {
      output,
      from: {
        about:
          'where the packet comes from: NAMESPACE/POD, an IP address or a pod’s two with a comma, IP@LINK, "outside" (the default) or "node"',
      },
    },
  },
  trace: {
    about:
      'Follows live packets to a Service or an address, and says where they stop. It marks them in the kernel for that time. Exit code 1 where none came.',
    short: 'live packets’ way, and where it stops',
    argument: { name: 'TARGET', about: 'a Service, [NAMESPACE/]NAME[:PORT], or ADDRESS:PORT[/PROTOCOL]' },
    options: {
      output,
      from: {
        about:
          'packets of this source alone: NAMESPACE/POD, an IP address or a pod’s two with a comma, IP@LINK, "outside" or "node"; where absent, of any',
      },
      for: {
        about: 'so long at most, 30s where absent',
        form: { pattern: /^\d+(\.\d+)?(ms|s|m|h)(\d+(ms|s|m))*$/, allowed: 'a duration such as 30s or 2m' },
      },
      count: {
        about: 'so many connections at most, 5 where absent',
        form: { pattern: /^([1-9]\d?|100)$/, allowed: 'a number from 1 to 100' },
      },
      packets: {
        about: 'what opens a connection and its answer, or all packets of a connection',
        form: { pattern: /^(opening|all)$/, allowed: 'opening or all' },
      },
      'kernel-debug': {
        about: "turn on the kernel's own messages of IPVS for that time, and show them",
        isSwitch: true,
      },
    },
  },
  migrate: {
    about:
      'Looks at this node and its cluster before kube-proxy is replaced, and says what will change. Exit code 1 where something has to be done first.',
    short: 'check: what will change when kube-proxy is replaced',
    argument: { name: 'check', about: 'looks, and changes nothing', words: ['check'] },
    options: { output },
  },
  'support-bundle': {
    about: 'All of the above and raw dumps, without secrets, in one file.',
    short: 'everything in one archive, without secrets',
    argument: { name: 'FILE', about: 'the archive to write, such as support.tar.gz; - for standard output' },
    options: { 'from-api': fromApi },
  },
}

export function isCommand(word: string | undefined): word is CommandName {
  return commandNames.some((name) => name === word)
}

/** A command as given. */
export interface Command {
  readonly name: CommandName
  /** The word after it; "" for commands that take none. */
  readonly argument: string
  readonly output: 'text' | 'json'
  /** Own options by name without dashes, those of them that were given. */
  readonly options: ReadonlyMap<string, string>
}
