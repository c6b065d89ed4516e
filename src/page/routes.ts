import type { Reply, Request, Routes } from '../health/server.ts'
import { Explainer, explanation } from './explanation.ts'
import { page, securityHeaders, type Content } from './layout.ts'
import { overview } from './overview.ts'
import { service } from './service.ts'
import { services } from './services.ts'
import type { PageSources } from './sources.ts'
import { icon, styleSheet } from './style.ts'

/** A file that is the same until another version runs. */
function fixed(type: string, body: string): () => Reply {
  const headers = { ...securityHeaders, 'Cache-Control': 'public, max-age=3600' }
  return () => ({ code: 200, type, body, headers })
}

/** The web page: what it answers by path. It reads only, and only when it is asked. */
export function pageRoutes(sources: PageSources): Routes {
  const explainer = new Explainer(sources.explain)
  const shown =
    (view: (request: Request) => Promise<Content>) =>
    async (request: Request): Promise<Reply> =>
      page(sources, await view(request))
  return {
    '/': shown(({ query }) => overview(sources, query)),
    '/services': shown(({ query }) => services(sources, query)),
    '/service': shown(({ query }) => service(sources, query)),
    '/explain': shown(({ query, site, signal }) => explanation(explainer, query, site, signal)),
    '/page.css': fixed('text/css; charset=utf-8', styleSheet),
    '/page.svg': fixed('image/svg+xml', icon),
  }
}
