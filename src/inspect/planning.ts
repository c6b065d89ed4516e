// What works out from the cluster's objects what is wanted: the daemon's whole planning, loaded only where it is needed.
export { runSupportBundle } from './bundle.ts'
export { runConns } from './conns.ts'
export { ownWanted } from './own-wanted.ts'
export { runPlan } from './plan.ts'
