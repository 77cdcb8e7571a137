//go:build linux && !peekwatch

package listener

const seesBehindBytes = true
