#!/usr/bin/env bash
# Runs the benchmarks, keeps their raw output in bench/results and compares it
# with the last run that was committed. Overridable: BENCH (which), COUNT, PKG.
set -euo pipefail
cd "$(dirname "$0")/.."
benchstat=golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

commit=$(git rev-parse --short HEAD 2>/dev/null || echo uncommitted)
# What a run before this one has measured changes nothing that is measured.
[ -z "$(git status --porcelain -- ':!bench/results' ':!loadtest/results' 2>/dev/null)" ] || commit=$commit-dirty
out=bench/results/$(date +%F)-$commit.txt
last=$(git log -1 --format= --name-only --diff-filter=AM -- 'bench/results/*.txt' 2>/dev/null | tail -1 || true)

mkdir -p bench/results
{
	echo "# $(date -u +%FT%TZ) $(uname -srm) $(nproc) cores $(go version | cut -d' ' -f3)"
	echo "# load average $(cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || uptime)"
} >>"$out"
# One package at a time, as two benchmarks at once measure each other; and one
# round after the other, so that a slow minute touches all alike.
for ((i = 0; i < ${COUNT:-6}; i++)); do
	go test -p 1 -run='^$' -bench="${BENCH:-.}" -benchmem "${PKG:-./...}" | grep -v 'no test files' | tee -a "$out"
done

echo "written to $out"
if [ -n "$last" ]; then
	go run "$benchstat" "$last" "$out"
else
	go run "$benchstat" "$out"
fi
