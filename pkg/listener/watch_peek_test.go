//go:build unix && (!linux || peekwatch)

package listener

const seesBehindBytes = false
