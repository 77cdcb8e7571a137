#!/usr/bin/env bash
# build.sh binary arch version outdir: a deb and an rpm of that binary. The version
# is what git describe says.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$1 arch=$2 version=$3 out=$4

# v1.2.3, v1.2.3-rc1, v1.2.3-5-gabc1234-dirty, abc1234 in the packages' order: 1.2.3,
# 1.2.3~rc1 before it, 1.2.3+5.gabc1234.dirty after it, 0+abc1234 before all.
version=$(sed -E 's/-dirty$/.dirty/; s/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; t v; :v; s/^v([0-9])/\1/; t d; s/^/0+/; :d; s/-/~/g' <<<"$version")

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cp "$binary" "$stage/llmproxy"
for shell in bash zsh fish; do # of this machine's build: the other's does not run here
	go run ./cmd/llmproxy completion $shell >"$stage/llmproxy.$shell"
done

mkdir -p "$out"
export ARCH=$arch VERSION=$version STAGE=$stage
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
ZSH=/usr/share/zsh/vendor-completions packaging/nfpm.sh package --config packaging/nfpm.yaml --packager deb --target "$out/"
ZSH=/usr/share/zsh/site-functions packaging/nfpm.sh package --config packaging/nfpm.yaml --packager rpm --target "$out/"
