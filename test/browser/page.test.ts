// The web page in a real Chromium: Debian's, or the one that CHROMIUM names. Ten thousand Services over fakes of the
// kernel; everything above them is the daemon's own code.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { AxeResults } from 'axe-core'
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { clusterIP, clusterOf } from '../bench/objects.ts'
import { shop } from '../unit/page/objects.ts'
import { Stand } from '../unit/page/stand.ts'

const size = 10_000
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

let stand: Stand
let url: string
let browser: Browser
beforeAll(async () => {
  stand = new Stand()
  stand.tell(clusterOf({ services: size, endpoints: 10 }))
  stand.tell(shop)
  url = await stand.start()
  for (const [index, active] of [
    [17, 30],
    [4711, 500],
    [9999, 200],
  ] as const) {
    await stand.connect({ family: 'IPv4', protocol: 'TCP', address: clusterIP(index), port: 80 }, active, 7, 3)
  }
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
  })
})
afterAll(async () => {
  await browser?.close()
  await stand?.stop()
})

/** What the browser complained of, and requests to anybody else. */
const complaints: string[] = []

async function open(options: BrowserContextOptions = {}): Promise<Page> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
  const page = await context.newPage()
  page.on('console', (message) => complaints.push(`${message.type()}: ${message.text()}`))
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('requestfailed', (request) => {
    const reason = request.failure()?.errorText
    // The browser gives up what a page wanted when it goes on to the next one.
    if (reason !== 'net::ERR_ABORTED') complaints.push(`failed: ${request.url()} ${reason}`)
  })
  page.on('request', (request) => {
    if (!request.url().startsWith(`${url}/`)) complaints.push(`asked elsewhere: ${request.url()}`)
  })
  return page
}

let page: Page
beforeEach(async () => {
  complaints.length = 0
  page = await open()
  await page.goto(url)
})
afterEach(async () => {
  expect(complaints).toEqual([])
  expect(stand.errors).toEqual([])
  await page.context().close()
})

const listed = (): Promise<string[]> => page.locator('tbody th a').allTextContents()

test('a Service is found by search, and shown', async () => {
  await page.getByRole('searchbox').fill('service-4711')
  await page.getByRole('button', { name: 'Search' }).click()
  expect(await listed()).toEqual(['default/service-4711'])
  await page.getByRole('link', { name: 'default/service-4711' }).click()
  expect(await page.getByRole('heading', { level: 1 }).textContent()).toBe('default/service-4711')
  const servers = page.getByRole('table', { name: /Virtual servers/ })
  expect(await servers.getByRole('row').nth(1).textContent()).toMatch(/cluster IP\s*rr\s*10\s*5,000\s*70\s*3\s*stands/)
  expect(
    await page
      .getByRole('table', { name: /Endpoints/ })
      .getByRole('row')
      .count(),
  ).toBe(11)
})

test('Services are sorted by connections, and back', async () => {
  await page.getByRole('link', { name: 'Services', exact: true }).click()
  await page.getByRole('columnheader', { name: 'Active', exact: true }).getByRole('link').click()
  expect((await listed()).slice(0, 3)).toEqual(['default/service-4711', 'default/service-9999', 'default/service-17'])
  expect(await page.locator('th[aria-sort]').getAttribute('aria-sort')).toBe('descending')
  await page.locator('th[aria-sort] a').click()
  expect(await page.locator('th[aria-sort]').getAttribute('aria-sort')).toBe('ascending')
  await page.getByRole('columnheader', { name: 'Service', exact: true }).getByRole('link').click()
  expect((await listed())[0]).toBe('default/kubernetes')
})

test('all of ten thousand Services are listed by paging, each once and in order', async () => {
  await page.goto(`${url}/services`)
  const seen = await listed()
  for (const next = page.getByRole('link', { name: 'Next' }); (await next.count()) > 0;) {
    await next.click()
    seen.push(...(await listed()))
  }
  expect(seen).toHaveLength(size + 4)
  expect(new Set(seen).size).toBe(size + 4)
  expect(seen).toEqual(seen.toSorted())
})

test('a packet is explained by the form', async () => {
  await page.getByRole('link', { name: 'Explain', exact: true }).click()
  await page.getByLabel('To', { exact: true }).fill('shop/cart:http')
  await page.getByLabel('From').fill('192.168.60.9')
  await page.getByRole('button', { name: 'Explain' }).click()
  expect(await page.locator('.note').first().textContent()).toMatch(
    /served\s.*served by virtual server 10\.111\.0\.10:80/,
  )
  expect(await page.getByRole('listitem').filter({ hasText: 'KUBE-SERVICES' }).count()).toBeGreaterThan(0)
  expect(await page.getByLabel('From').inputValue()).toBe('192.168.60.9')
  // From a virtual server: the form is filled in, and nothing runs until its button is pressed.
  await page
    .getByRole('link', { name: 'shop/search' })
    .or(page.getByRole('link', { name: 'shop/cart' }))
    .first()
    .click()
  await page.getByRole('link', { name: 'Explain [fd96::10]:80/TCP' }).click()
  expect(await page.getByLabel('To', { exact: true }).inputValue()).toBe('[fd96::10]:80/TCP')
  expect(await page.getByRole('heading', { name: 'Verdict' }).count()).toBe(0)
  await page.getByRole('button', { name: 'Explain' }).click()
  expect(await page.getByRole('heading', { name: 'Verdict' }).count()).toBe(1)
})

test('the keyboard alone is enough', async () => {
  const focused = (): Promise<string> =>
    page.evaluate<string>(
      'document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent.trim()',
    )
  const press = async (...keys: string[]): Promise<void> => {
    for (const key of keys) await page.keyboard.press(key)
  }
  await press('Tab')
  expect(await focused()).toBe('Skip to the content')
  const box = await page.locator('.skip').boundingBox()
  expect(box!.x).toBeGreaterThanOrEqual(0)
  const order: string[] = []
  for (let i = 0; i < 4; i++) {
    await press('Tab')
    order.push(await focused())
  }
  expect(order).toEqual(['Overview', 'Services', 'Explain', 'Search Services by name, namespace, address or port'])
  expect(await page.evaluate('getComputedStyle(document.activeElement).outlineStyle')).toBe('solid')
  await page.keyboard.type('shop cart')
  await press('Enter')
  await page.waitForURL('**/services?q=shop+cart')
  expect(await listed()).toEqual(['shop/cart'])
  await press('Tab', 'Enter')
  expect(await page.evaluate('location.hash')).toBe('#content')
  // On from the content, not from the top: the table's sort links, then the Service.
  for (let i = 0; i < 20 && (await focused()) !== 'shop/cart'; i++) await press('Tab')
  await press('Enter')
  await page.waitForURL('**/service?name=shop%2Fcart')
  expect(await page.getByRole('heading', { level: 1 }).textContent()).toBe('shop/cart')
})

test('what there is not is said', async () => {
  await page.goto(`${url}/service?name=shop/none`)
  expect(await page.getByRole('heading', { level: 1 }).textContent()).toBe('No such Service')
  expect(complaints.splice(0)).toEqual([expect.stringMatching(/^error: Failed to load resource: .* 404/)])
})

describe.each(['light', 'dark'] as const)('%s', (colorScheme) => {
  test.each([
    ['overview', '/?passes=all'],
    ['Services, sorted', '/services?q=service-471&sort=active'],
    ['no Service', '/services?q=none-such'],
    ['a Service', '/service?name=shop/cart'],
    ['the form', '/explain'],
    ['an explanation', '/explain?target=shop/cart:http&run=1'],
    ['a refusal explained', '/explain?target=shop/search&run=1'],
  ])('%s has no fault that axe knows, and fits a telephone', async (_name, path) => {
    const other = await open({ colorScheme })
    try {
      await other.goto(url + path)
      await other.evaluate(axe)
      // In the dark only the colours are others.
      const rules = colorScheme === 'dark' ? '{ runOnly: ["color-contrast"] }' : '{}'
      const result = await other.evaluate<AxeResults>(`axe.run(${rules})`)
      expect(result.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`)).toEqual([])
      expect(result.passes.length).toBeGreaterThan(colorScheme === 'dark' ? 0 : 15)
      await other.setViewportSize({ width: 360, height: 780 })
      expect(await other.evaluate('document.documentElement.scrollWidth')).toBe(360)
    } finally {
      await other.context().close()
    }
  })
})
