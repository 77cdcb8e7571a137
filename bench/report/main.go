// Report writes BENCHMARKS.md and its pictures from the raw results that are in
// the repository: `go run ./bench/report`, or `make bench-report`. The same raw
// files give the same bytes. A result that is missing is named on the page.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	root := flag.String("root", ".", "the repository: `directory` of bench/ and loadtest/")
	flag.Parse()
	if err := report(*root); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func report(root string) error {
	p, err := gather(root)
	if err != nil {
		return err
	}
	return p.write(root)
}
