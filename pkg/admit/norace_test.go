//go:build !race

package admit_test

const raceCost = 1
