# Two stages: the bundle is built with all of npm, the image has Node, the bundle, iptables, nftables to find what nftables mode left, and
# iproute2 for news of the node's addresses.
ARG BUILD_IMAGE=node:24-bookworm-slim
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json ./
COPY scripts scripts
COPY src src
RUN npm run build

FROM ${BASE_IMAGE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends iptables nftables iproute2 kmod \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /build/dist /opt/kube-ipvs-proxy
# One arena of malloc instead of one a thread, a small young generation, and a heap that grows in small steps: half the
# memory under load.
ENV NODE_ENV=production MALLOC_ARENA_MAX=1
ENTRYPOINT ["/usr/local/bin/node", "--heap-growing-percent=30", "--max-semi-space-size=2", "/opt/kube-ipvs-proxy/kube-ipvs-proxy.mjs"]
