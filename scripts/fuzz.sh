#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time: fuzz.sh 30s
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}

# "dir/file_test.go:func FuzzName" for each target
targets=$(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' bench cmd loadtest pkg scripts | sort)
while IFS=: read -r file func; do
	name=${func#func }
	echo "$name in $(dirname "$file"), $time"
	go test -run='^$' -fuzz="^$name\$" -fuzztime="$time" "./$(dirname "$file")"
done <<<"$targets"
