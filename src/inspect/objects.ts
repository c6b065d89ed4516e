// What talks HTTP and reads YAML, loaded together and only where it is needed: it takes longer than a whole look.
export { Client } from '../kube/client.ts'
export { loadAccess } from '../kube/kubeconfig.ts'
export { readConfig } from '../read-config.ts'
export { askDaemon, proxyOfAnswers, readDaemon } from './daemon.ts'
