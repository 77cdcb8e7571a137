//go:build race

package admit_test

// raceCost is what the race detector makes a test longer by, about.
const raceCost = 10
