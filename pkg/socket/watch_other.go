//go:build !linux

package socket

import (
	"errors"
	"syscall"
)

// Watch tells when the other end of a socket closes it. There is none here.
type Watch struct{}

// NewWatch fails: there is no epoll.
func NewWatch(func(id uint64)) (*Watch, error) { return nil, errors.ErrUnsupported }

// Add fails.
func (*Watch) Add(syscall.RawConn, uint64) error { return errors.ErrUnsupported }

// Close does nothing.
func (*Watch) Close() {}
