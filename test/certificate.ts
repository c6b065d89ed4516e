import { generateKeyPairSync, sign } from 'node:crypto'

/** DER: one value of a type. */
function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts)
  const { length: count } = content
  const length = count < 128 ? [count] : count < 256 ? [0x81, count] : [0x82, count >> 8, count & 255]
  return Buffer.concat([Buffer.from([tag, ...length]), content])
}

const sequence = (...parts: readonly Buffer[]): Buffer => der(0x30, ...parts)
const oid = (hex: string): Buffer => der(0x06, Buffer.from(hex, 'hex'))
const number = (value: number): Buffer => der(0x02, Buffer.from([value]))
/** UTCTime */
const time = (moment: Date): Buffer =>
  der(0x17, Buffer.from(`${moment.toISOString().slice(2, 19).replace(/[-T:]/g, '')}Z`))

const algorithm = sequence(oid('2a8648ce3d040302'))
/** subjectAltName: IP address 127.0.0.1. */
const names = sequence(oid('551d11'), der(0x04, sequence(der(0x87, Buffer.from([127, 0, 0, 1])))))

export interface Certificate {
  readonly cert: string
  readonly key: string
}

const day = 86_400_000

/** A self-signed certificate for 127.0.0.1, valid between two moments: for a day unless said otherwise. */
export function makeCertificate({
  name = 'fake-apiserver',
  from = new Date(Date.now() - day),
  to = new Date(Date.now() + day),
}: {
  readonly name?: string
  readonly from?: Date
  readonly to?: Date
} = {}): Certificate {
  const subject = sequence(der(0x31, sequence(oid('550403'), der(0x0c, Buffer.from(name)))))
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const body = sequence(
    der(0xa0, number(2)),
    number(1),
    algorithm,
    subject,
    sequence(time(from), time(to)),
    subject,
    publicKey.export({ format: 'der', type: 'spki' }),
    der(0xa3, sequence(names)),
  )
  const signature = der(0x03, Buffer.from([0]), sign('sha256', body, privateKey))
  const text = sequence(body, algorithm, signature).toString('base64').replaceAll(/.{64}/g, '$&\n')
  return {
    cert: `-----BEGIN CERTIFICATE-----\n${text}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
  }
}
