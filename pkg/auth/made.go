package auth

import (
	"crypto/rand"
	"fmt"
	"hash/crc32"
)

// A made key is the prefix, random digits and the CRC-32 of both, all in base 62.
// CRC-32 finds each change that spans four characters or fewer.
const (
	prefix      = "sk-llmproxy-"
	digits      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	randomLen   = 30 // 178 bits
	checksumLen = 6  // 62^6 > 2^32
	madeLen     = len(prefix) + randomLen + checksumLen
)

// Mint makes a key of 178 random bits: sk-llmproxy- and 36 characters of base 62, the
// last six a checksum. It fails only when the system has no randomness to give.
func Mint() (key string, err error) {
	made := append(make([]byte, 0, madeLen), prefix...)
	var random [2 * randomLen]byte
	for len(made) < len(prefix)+randomLen {
		if _, err := rand.Read(random[:]); err != nil {
			return "", fmt.Errorf("cannot make a key: %w", err)
		}
		made = appendDigits(made, random[:])
	}
	sum := checksum(crc32.ChecksumIEEE(made))
	return string(append(made, sum[:]...)), nil
}

// appendDigits adds a digit for each random byte until the random part is full.
// Bytes beyond the last multiple of 62 are passed over: they would favour some digits.
func appendDigits(made, random []byte) []byte {
	for _, b := range random {
		if int(b) < 256-256%len(digits) && len(made) < len(prefix)+randomLen {
			made = append(made, digits[int(b)%len(digits)])
		}
	}
	return made
}

// checksum is sum in base 62, the highest digit first.
func checksum(sum uint32) (text [checksumLen]byte) {
	for i := checksumLen - 1; i >= 0; i-- {
		text[i] = digits[sum%uint32(len(digits))]
		sum /= uint32(len(digits))
	}
	return text
}

// LooksMistyped reports whether key has the form of a made key, in prefix, length and
// alphabet, and a checksum that is not its own. An operator may have written such a
// key all the same: only a Keyring knows whether there is one.
func LooksMistyped(key []byte) bool {
	if len(key) != madeLen || string(key[:len(prefix)]) != prefix {
		return false
	}
	for _, c := range key[len(prefix):] {
		if !isDigit(c) {
			return false
		}
	}
	sum := checksum(crc32.ChecksumIEEE(key[:madeLen-checksumLen]))
	return string(key[madeLen-checksumLen:]) != string(sum[:])
}

func isDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}
