package redis

import "testing"

// As text 6.10 would be older than 6.2, and 10 older than 6.
func TestVersionsAreNumbers(t *testing.T) {
	for version, want := range map[string]bool{
		"6.0.16": true, "5.0.14": true, "6.1.240": true, "6.2.0": false, "6.10.1": false, "7.0.15": false, "10.0": false, "": false, "255.255.255": false,
	} {
		if older(version) != want {
			t.Errorf("%q: %v", version, !want)
		}
	}
}
