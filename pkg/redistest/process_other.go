//go:build !linux

package redistest

import "syscall"

// endWithParent has no means here to end a server when the tests are killed.
func endWithParent() *syscall.SysProcAttr { return nil }
