import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Explanation } from '../../../src/explain/explain.ts'
import { KernelError, ProxyError } from '../../../src/lib/errors.ts'
import type { ServerId } from '../../../src/model/virtual-server.ts'
import { Explainer } from '../../../src/page/explanation.ts'
import { endpointObject, serviceObject, shop, sliceObject } from './objects.ts'
import { Stand } from './stand.ts'

let stand: Stand
let url: string
afterEach(async () => {
  await stand?.stop()
})

async function world(options: ConstructorParameters<typeof Stand>[0] = {}, more: Iterable<object> = []): Promise<void> {
  stand = new Stand(options)
  stand.tell([...shop, ...(more as Iterable<Record<string, unknown>>)])
  url = await stand.start()
}

async function get(path: string, init?: RequestInit): Promise<{ code: number; headers: Headers; text: string }> {
  const answer = await fetch(`${url}${path}`, init)
  return { code: answer.status, headers: answer.headers, text: await answer.text() }
}

/** What is to be read, without markup; a blank where lines broke. */
function words(text: string): string {
  return text
    .replaceAll(/<(style|title)[\s\S]*?<\/\1>/g, '')
    .replaceAll(/<[^>]*>/g, ' ')
    .replaceAll(/\s+/g, ' ')
    .replaceAll('&#39;', "'")
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
}

/** Names of the Services listed, in order. */
function names(text: string): string[] {
  return [...text.matchAll(/href="\/service\?name=([^"]+)"/g)].map(([, name]) => decodeURIComponent(name!))
}

const cart: ServerId = { family: 'IPv4', protocol: 'TCP', address: '10.111.0.10', port: 80 }
const search: ServerId = { ...cart, address: '10.111.0.11' }

describe('every view', () => {
  beforeEach(() => world())

  test.each([
    ['/', 200],
    ['/?passes=all', 200],
    ['/services', 200],
    ['/services?q=nothing-like-it', 200],
    ['/services?page=99999&sort=x&order=y', 200],
    ['/service?name=shop/cart', 200],
    ['/service?name=shop/none', 404],
    ['/service', 404],
    ['/explain', 200],
    ['/explain?target=shop/cart&run=1', 400],
    ['/explain?target=shop/cart:http&run=1', 200],
    ['/explain?run=1', 400],
    ['/explain?target=shop/none&run=1', 400],
  ])('GET %s answers %i, safely', async (path, code) => {
    // A Service of several ports is explained by its first: that is an answer, too.
    const answer = await get(path)
    expect(answer.code).toBe(path.includes('cart&run') ? 200 : code)
    expect(answer.headers.get('content-type')).toBe('text/html; charset=utf-8')
    expect(answer.headers.get('content-security-policy')).toMatch(/^default-src 'none'; style-src 'self';/)
    expect(answer.headers.get('content-security-policy')).not.toContain('unsafe')
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    expect(answer.headers.get('cache-control')).toBe('no-store')
    expect(answer.text).not.toMatch(/<script|style="|\son\w+=|undefined|NaN|\[object/)
    expect(answer.text).toMatch(/<html lang="en">[\s\S]*<h1>[\s\S]*<\/html>\s*$/)
    expect(stand.errors).toEqual([])
  })

  test.each(['POST', 'PUT', 'DELETE'])('%s is not allowed', async (method) => {
    for (const path of ['/', '/services', '/service', '/explain', '/page.css']) {
      expect((await get(path, { method })).code).toBe(405)
    }
  })

  test('what asked for a page is in it as text', async () => {
    const bad = `"><script>alert('x')</script>&`
    for (const path of [
      '/services?q=',
      '/service?name=',
      '/explain?target=',
      '/explain?run=1&target=',
      '/explain?from=',
    ]) {
      const { text } = await get(path + encodeURIComponent(bad))
      expect(text).not.toContain('<script>')
      if (!path.includes('from')) expect(text).toContain('&quot;&gt;&lt;script&gt;')
    }
  })

  test('the style sheet and the icon are its own', async () => {
    const { text } = await get('/')
    for (const [, path] of text.matchAll(/<link[^>]* href="([^"]+)"/g)) {
      const answer = await get(path!)
      expect(answer.code).toBe(200)
      expect(answer.headers.get('content-type')).toMatch(/^(text\/css|image\/svg\+xml)/)
    }
  })

  test('the other paths of the port are as they were', async () => {
    expect((await get('/proxyMode')).text).toBe('ipvs')
    expect((await get('/nothing')).code).toBe(404)
  })
})

describe('Services', () => {
  beforeEach(() => world())

  test.each([
    ['all of them', '', ['kube-system/kube-dns', 'shop/cart', 'shop/nobody', 'shop/search']],
    ['a part of a name', 'q=car', ['shop/cart']],
    ['capitals', 'q=CART', ['shop/cart']],
    ['a namespace', 'q=shop/', ['shop/cart', 'shop/nobody', 'shop/search']],
    ['two words', 'q=shop+80', ['shop/cart', 'shop/nobody', 'shop/search']],
    ['a cluster IP', 'q=10.111.0.53', ['kube-system/kube-dns']],
    ['an IPv6 address written otherwise', 'q=FD96:0::10', ['shop/cart']],
    ['an address of the load balancer', 'q=203.0.113.10', ['shop/cart']],
    ['the beginning of an address', 'q=10.111.0', ['kube-system/kube-dns', 'shop/cart', 'shop/nobody', 'shop/search']],
    ['an endpoint', 'q=10.244.2.22', ['shop/cart']],
    ['an endpoint of IPv6', 'q=fd44:2::21', ['shop/cart']],
    ['a port', 'q=53', ['kube-system/kube-dns']],
    ['a node port', 'q=30443', ['shop/cart']],
    ['a name of a port', 'q=dns-tcp', ['kube-system/kube-dns']],
    ['an address with a port', 'q=10.111.0.10:443', ['shop/cart']],
    ['an address with another port', 'q=10.111.0.10:444', []],
    ['an IPv6 address with a port', `q=${encodeURIComponent('[fd96::10]:80')}`, ['shop/cart']],
    ['an endpoint with its port', 'q=10.244.2.53:9153', ['kube-system/kube-dns']],
    ['a type', 'q=loadbalancer', ['shop/cart']],
    ['what there is not', 'q=x', []],
    ['names backwards', 'order=down', ['shop/search', 'shop/nobody', 'shop/cart', 'kube-system/kube-dns']],
    ['the fewest ready first', 'sort=ready', ['shop/nobody', 'shop/search', 'kube-system/kube-dns', 'shop/cart']],
    ['the most endpoints first', 'sort=endpoints', ['shop/cart', 'kube-system/kube-dns', 'shop/search', 'shop/nobody']],
  ])('by %s', async (_name, query, expected) => {
    expect(names((await get(`/services?${query}`)).text)).toEqual(expected)
  })

  test('connections are those of the kernel, summed over all virtual servers', async () => {
    await stand.connect(cart, 3, 20, 7)
    await stand.connect({ ...cart, address: '203.0.113.10' }, 1000, 0, 2)
    const { text } = await get('/services?q=cart')
    // Three ready endpoints at the cluster IP, one of this node at the load balancer's address.
    expect(words(text)).toContain(
      'cart LoadBalancer 10.111.0.10 fd96::10 80 :30080 /TCP 443 :30443 /TCP 5 7 1,009 60 9',
    )
  })

  test('the order by connections says how old the reading is', async () => {
    await stand.connect(cart, 0, 5)
    stand.ipvs.calls.length = 0
    const { text } = await get('/services?sort=inactive')
    expect(names(text)[0]).toBe('shop/cart')
    expect(words(text)).toMatch(/by a reading [\d.]+ m?s old/)
    expect(text).toContain('aria-sort="descending"')
    expect(stand.ipvs.calls.filter((call) => call === 'traffic')).toHaveLength(1)
  })

  test('only the virtual servers of the Services shown are asked for', async () => {
    stand.ipvs.calls.length = 0
    await get('/services?q=kube-dns')
    expect(stand.ipvs.calls.sort()).toEqual([
      'find 10.111.0.53:53/TCP',
      'find 10.111.0.53:53/UDP',
      'find 10.111.0.53:9153/TCP',
    ])
  })

  test('where the kernel does not answer, the rest is there', async () => {
    stand.ipvs.fault = () => new Error('the socket <failed>')
    for (const path of ['/services', '/service?name=shop/cart']) {
      const { code, text } = await get(path)
      expect(code).toBe(200)
      expect(words(text)).toContain('could not be asked: the socket <failed>')
    }
    const { text } = await get('/services?sort=active')
    expect(words(text)).toContain('Connections could not be read, the order is by name: the socket <failed>.')
    expect(names(text)[0]).toBe('kube-system/kube-dns')
  })
})

test('ten thousand Services are listed by paging, each once', async () => {
  const ports = [{ name: 'http', port: 80, protocol: 'TCP' }]
  const many = Array.from({ length: 250 }, (_, i) =>
    serviceObject({ name: `many-${i}`, ips: [`10.112.${i >> 8}.${i & 255}`], ports }),
  )
  await world({}, many)
  const seen: string[] = []
  let path: string | undefined = '/services'
  for (let pages = 0; path !== undefined; pages++) {
    expect(pages).toBeLessThan(10)
    const { text } = await get(path)
    seen.push(...names(text))
    path = /rel="next"\s+href="([^"]+)"/.exec(text)?.[1]?.replaceAll('&amp;', '&')
  }
  expect(seen).toHaveLength(254)
  expect(new Set(seen).size).toBe(254)
  expect(seen).toEqual(seen.toSorted())
})

describe('one Service', () => {
  beforeEach(() => world())

  test('shows virtual servers and who of the endpoints is used, and why not', async () => {
    await stand.connect(cart, 2, 1)
    const text = words((await get('/service?name=shop/cart')).text)
    for (const part of [
      'External traffic policy Local',
      'Session affinity client IP, 3 h',
      'Source ranges 198.51.100.0/24',
      'Health check node port 32000',
      '10.111.0.10:80/TCP cluster IP rr persistent 3 h 3 6 3 0 stands',
      '203.0.113.10:80/TCP load balancer rr persistent 3 h 1 0 0 0 stands',
      '192.168.60.1:30080/TCP node port',
      '[fd96::10]:80/TCP cluster IP rr persistent 3 h 2 0 0 0 stands',
      '10.244.1.20:8080 this node ready yes 1 3 of 3 2 1',
      '10.244.2.21:8080 another node ready cluster IP: yes from outside: no · not on this node 1 1 of 3 2 1',
      '10.244.2.23:8080 another node terminating, serving cluster IP: no · terminating: used only while none is ready',
      '10.244.2.24:8080 another node not ready cluster IP: no · not ready',
    ]) {
      expect(text).toContain(part)
    }
  })

  test('shows hints, and whom they leave out', async () => {
    const text = words((await get('/service?name=kube-system/kube-dns')).text)
    expect(text).toContain('10.244.2.53:53 another node hints: zone zone-b ready no · for other zones than zone-a')
    expect(text).toContain('10.244.1.53:53 this node hints: zone zone-a ready yes 1 1 of 1')
  })

  test('shows what somebody else took away, and what was put there', async () => {
    await stand.ipvs.apply([
      { kind: 'deleteServer', server: search },
      { kind: 'newDestination', server: cart, destination: { address: '10.9.9.9', port: 1, weight: 5 } },
    ])
    expect(words((await get('/service?name=shop/search')).text)).toMatch(
      /10\.111\.0\.11:80\/TCP cluster IP rr – – – – missing/,
    )
    const text = words((await get('/service?name=shop/cart')).text)
    expect(text).toContain('10.111.0.10:80/TCP cluster IP rr persistent 3 h 4 of 3 wanted')
    expect(text).toContain('10.9.9.9:1 removed not wanted 5 1 of 3')
  })

  test('shows endpoints that are gone and drain', async () => {
    await stand.connect(cart, 4, 2)
    const before = stand.passCount
    stand.tell([
      sliceObject('cart', [endpointObject('10.244.1.20', 'rsl')], [{ name: 'http', port: 8080, protocol: 'TCP' }]),
    ])
    await stand.passes(before + 1)
    const text = words((await get('/service?name=shop/cart')).text)
    expect(text).toContain('10.244.2.21:8080 removed drains until its connections end 0 1 of 3 4 2')
    expect(words((await get('/')).text)).toContain('10.244.2.21:8080 10.111.0.10:80/TCP shop/cart 4 2')
  })

  test('lists a hundred endpoints of a port, and all that are asked for', async () => {
    const ports = [{ name: 'http', port: 8080, protocol: 'TCP' }]
    const endpoints = Array.from({ length: 130 }, (_, i) => endpointObject(`10.244.3.${i + 1}`))
    const before = stand.passCount
    stand.tell([sliceObject('search', endpoints, ports)])
    await stand.passes(before + 1)
    const first = await get('/service?name=shop/search')
    expect(words(first.text)).toContain('100 of 130. List all')
    const rest = await get('/service?name=shop/search&all=1')
    expect(rest.text.match(/another node/g)).toHaveLength(130)
    expect(words(rest.text)).not.toContain('List all')
  })
})

describe('overview', () => {
  test('tells passes, drift, and what the kernel has', async () => {
    await world({ syncPeriod: 40 })
    await stand.ipvs.apply([{ kind: 'deleteServer', server: cart }])
    while (stand.history.drifts().length === 0) await stand.passes(stand.passCount + 1)
    const text = words((await get('/')).text)
    expect(text).toContain('The node keeps up.')
    expect(text).toMatch(/virtual server missing ipvs IPv4 1 /)
    expect(text).toMatch(/virtual server ipvs 12 12 4 4|virtual server ipvs 11 11 4 4/)
    expect(text).toContain('10.111.0.10:80/TCP')
    expect(text).toMatch(/look at the kernel [\d.]+ m?s/)
  })

  test('tells a pass that failed, in words that are no markup', async () => {
    await world()
    stand.ipset.fault = (operation) => (operation === 'add' ? new Error('<b>full</b>') : undefined)
    const before = stand.passCount
    stand.tell([serviceObject({ name: 'late', ips: ['10.111.0.99'], ports: [{ port: 80, protocol: 'TCP' }] })])
    await stand.passes(before + 1)
    const { text } = await get('/')
    expect(text).toContain('ipset: &lt;b&gt;full&lt;/b&gt;')
    expect(words(text)).toContain('Not all is in the kernel: the last pass of IPv4 failed')
    expect(text).toContain('class="failed"')
  })
})

describe('explain', () => {
  const form = '/explain?target=shop/cart:http'

  test('the form alone runs nothing, and keeps what was entered', async () => {
    let runs = 0
    await world({ explain: () => Promise.reject(new Error(String(++runs))) })
    const { text } = await get(`${form}&from=10.0.0.9%40eth0&protocol=UDP`)
    expect(text).toContain('value="shop/cart:http"')
    expect(text).toContain('value="10.0.0.9@eth0"')
    expect(text).toMatch(/<option\s+selected\s*>UDP/)
    expect(runs).toBe(0)
  })

  test('tells verdict, way and endpoints, by what the kernel has', async () => {
    await world()
    const text = words((await get(`${form}&run=1`)).text)
    for (const part of [
      'served served by virtual server 10.111.0.10:80/TCP and one of 3 destinations',
      'The client gets an answer.',
      'nat PREROUTING',
      'KUBE-SERVICES 3 (ours):',
      'IPVS at LOCAL_IN',
      '10.244.2.24:8080 another node not used not ready',
    ]) {
      expect(text).toContain(part)
    }
    await stand.ipvs.apply([{ kind: 'deleteServer', server: cart }])
    const after = words((await get(`${form}&run=1`)).text)
    expect(after).toContain('virtual-server-missing')
    expect(after).toContain('there is no virtual server 10.111.0.10:80/TCP')
  })

  test('rules of others are told as text', async () => {
    await world()
    stand.iptables
      .get('IPv4')!
      .tables.get('filter')!
      .get('INPUT')!
      .rules.unshift('-m comment --comment "<img src=x onerror=alert(1)>" -j DROP')
    const { text } = await get(`${form}&run=1`)
    expect(text).not.toContain('<img')
    expect(words(text)).toContain('dropped-by-foreign-rule')
    expect(text).toContain('onerror=alert(1)&gt;')
  })

  test.each([
    [
      'a wrong question',
      new ProxyError('CONFIG', 'neither <one>', { advice: 'give & take' }),
      400,
      'neither <one> — give & take',
    ],
    ['a kernel that refuses', new KernelError(1, 'EPERM', 'list', 'rules'), 503, 'list rules: EPERM'],
  ])('%s is told', async (_name, error, code, text) => {
    await world({ explain: () => Promise.reject(error) })
    const answer = await get(`${form}&run=1`)
    expect(answer.code).toBe(code)
    expect(words(answer.text).replaceAll('&amp;', '&')).toContain(text)
  })

  test.each([
    ['cross-site', 403, 0],
    ['same-origin', 503, 1],
    ['none', 503, 1],
    ['', 503, 1],
  ])('asked by a page of "%s"', async (site, code, expected) => {
    let runs = 0
    await world({ explain: () => (runs++, Promise.reject(new ProxyError('COMMAND', 'no kernel here'))) })
    const answer = await get(`${form}&run=1`, { headers: site === '' ? {} : { 'sec-fetch-site': site } })
    expect([answer.code, runs]).toEqual([code, expected])
  })

  test('one runs at a time, and is given up when its client goes', async () => {
    const begun = Promise.withResolvers<AbortSignal>()
    const ended = Promise.withResolvers<void>()
    await world({
      explain: (_request, signal) =>
        new Promise((_resolve, reject) => {
          begun.resolve(signal)
          signal.addEventListener('abort', () => {
            reject(new Error('gone'))
            ended.resolve()
          })
        }),
    })
    const client = new AbortController()
    const first = get(`${form}&run=1`, { signal: client.signal }).catch(() => 'gone')
    await begun.promise
    const second = await get(`${form}&run=1`)
    expect(second.code).toBe(429)
    expect(words(second.text)).toContain('Another explanation is under way.')
    client.abort()
    expect(await first).toBe('gone')
    await ended.promise
  })

  test('one that takes too long is given up, and the next one runs', async () => {
    const forever = (_request: unknown, signal: AbortSignal): Promise<Explanation> =>
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('given up'))))
    const explainer = new Explainer(forever, 20)
    const never = new AbortController().signal
    for (let i = 0; i < 2; i++)
      await expect(explainer.run({ target: 'a' }, never)).rejects.toThrow('no end after 0.02 s')
  })
})
