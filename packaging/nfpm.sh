#!/bin/sh
# nfpm at the version that we build with, from source. 2.47 and later need modules
# that not every proxy has.
exec go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0 "$@"
