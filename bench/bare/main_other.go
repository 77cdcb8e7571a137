//go:build !linux

// Command bare needs Linux: it is made of epoll and raw system calls.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bare: runs on Linux only, it is made of epoll")
	os.Exit(1)
}
