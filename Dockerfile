# Two stages: the bundle is built with all of npm; the image has Node as package-lock.json names it, the bundle, both variants of
# iptables (the program takes that of the node's kubelet), nftables to find what nftables mode left and for trace events,
# iproute2 for news of the node's addresses, and modprobe. `make image` builds it with docker or buildah.
ARG BUILD_IMAGE=node:24-bookworm-slim@sha256:6f7b03f7c2c8e2e784dcf9295400527b9b1270fd37b7e9a7285cf83b6951452d
ARG BASE_IMAGE=debian:bookworm-slim@sha256:96e378d7e6531ac9a15ad505478fcc2e69f371b10f5cdf87857c4b8188404716

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json ./
COPY scripts scripts
COPY src src
RUN npm run build && cp -L node_modules/.bin/node node

FROM ${BASE_IMAGE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends iptables nftables iproute2 kmod \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/* /usr/share/doc /usr/share/man /usr/share/locale
COPY --from=build /build/node /usr/local/bin/node
COPY bin /opt/kube-ipvs-proxy/bin
COPY --from=build /build/dist /opt/kube-ipvs-proxy/dist
ENV NODE_ENV=production
ENTRYPOINT ["/opt/kube-ipvs-proxy/bin/kube-ipvs-proxy"]
