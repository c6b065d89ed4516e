# Two stages: the bundle is built with all of npm, the image has Node, the bundle, iptables, nftables to find what nftables mode left
# and for trace events, and iproute2 for news of the node's addresses.
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
COPY bin /opt/kube-ipvs-proxy/bin
COPY --from=build /build/dist /opt/kube-ipvs-proxy/dist
ENV NODE_ENV=production
ENTRYPOINT ["/opt/kube-ipvs-proxy/bin/kube-ipvs-proxy"]
