#!/usr/bin/env bash
# Builds the image with docker, or with buildah where no docker daemon answers.
#   scripts/image.sh [NAME]     default: kube-ipvs-proxy:VERSION of package.json
# BUILD_IMAGE and BASE_IMAGE of the environment take the place of the Dockerfile's; PLATFORM is one such as linux/arm64.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)
options=(--file Dockerfile --tag "${1:-kube-ipvs-proxy:$version}")
for argument in BUILD_IMAGE BASE_IMAGE; do
  [ -z "${!argument:-}" ] || options+=(--build-arg "$argument=${!argument}")
done
[ -z "${PLATFORM:-}" ] || options+=(--platform "$PLATFORM")
if docker info > /dev/null 2>&1; then
  exec docker build "${options[@]}" .
elif command -v buildah > /dev/null; then
  exec buildah bud --format docker "${options[@]}" .
fi
echo 'image.sh: neither a docker daemon nor buildah; please install one of them' >&2
exit 3
