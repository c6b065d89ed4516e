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

test('patient work waits for the end of what is urgent, but not for ever', async () => {
  const heard: string[] = []
  const { promise: end, resolve } = Promise.withResolvers<void>()
  const urgent = urgently(async () => {
    await end
    heard.push('urgent work is done')
  })
  const patient = new PatientTurn().next().then(() => heard.push('a patient turn'))
  await new Turn().next()
  await new Turn().next()
  expect(heard).toEqual([])
  resolve()
  await Promise.all([urgent, patient])
  expect(heard).toEqual(['urgent work is done', 'a patient turn'])

  const endless = Promise.withResolvers<void>()
  const second = urgently(() => endless.promise)
  await new PatientTurn().next()
  endless.resolve()
  await second
})
