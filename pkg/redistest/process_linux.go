package redistest

import "syscall"

// endWithParent makes a server end also when the tests are killed.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
