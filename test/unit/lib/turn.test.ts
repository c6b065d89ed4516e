import { expect, test } from 'vitest'
import { PatientTurn, Turn, urgently } from '../../../src/lib/turn.ts'

test('long work lets others have their turn, and begins a new one of its own', async () => {
  const turn = new Turn()
  expect(turn.isOver).toBe(false)
  const heard: string[] = []
  setImmediate(() => heard.push('somebody else'))
  while (!turn.isOver) Math.random()
  expect(heard).toEqual([])
  await turn.next()
  expect(heard).toEqual(['somebody else'])
  expect(turn.isOver).toBe(false)
})

test('whoever is patient lets others go before, but not for ever', async () => {
  const heard: string[] = []
  const line = [
    new PatientTurn().next().then(() => heard.push('patient')),
    new Turn().next().then(() => heard.push('first')),
    new Turn().next().then(() => heard.push('second')),
  ]
  await Promise.all(line)
  expect(heard).toEqual(['first', 'second', 'patient'])

  const patient = new PatientTurn().next().then(() => heard.push('patient at last'))
  const turn = new Turn()
  while (heard.length < 4) await turn.next()
  await patient
})

test('patient work makes room for what is urgent, and for what is to be expected right after it, but not for ever', async () => {
  const heard: string[] = []
  const patient = (): Promise<unknown> => new PatientTurn().next().then(() => heard.push('a patient turn'))
  const { promise: end, resolve } = Promise.withResolvers<void>()
  const urgent = urgently(() => end)
  const first = patient()
  await new Turn().next()
  await new Turn().next()
  expect(heard).toEqual([])
  // While it goes on.
  await first
  resolve()
  await urgent
  const second = patient()
  setTimeout(() => heard.push('the next change'), 5)
  await second
  expect(heard).toEqual(['a patient turn', 'the next change', 'a patient turn'])
})
