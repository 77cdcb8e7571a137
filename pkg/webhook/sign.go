package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

const (
	secretPrefix = "whsec_" // what follows is base64
	minKey       = 16       // bytes
)

// signingKey turns a secret as the operator wrote it into the key: nil for no
// secret.
func signingKey(secret []byte) ([]byte, error) {
	if secret == nil {
		return nil, nil
	}
	key := bytes.Clone(secret)
	if rest, ok := bytes.CutPrefix(secret, []byte(secretPrefix)); ok {
		var err error
		if key, err = base64.StdEncoding.AppendDecode(nil, rest); err != nil {
			return nil, errors.New("the webhook's secret must be base64 after " + secretPrefix)
		}
	}
	if len(key) < minKey {
		return nil, fmt.Errorf("the webhook's secret has %d bytes, fewer than %d: anybody could guess it; `openssl rand -base64 32` makes one, to put after %s",
			len(key), minKey, secretPrefix)
	}
	return key, nil
}

// sign returns the value of webhook-signature, by Standard Webhooks 1.0,
// "Signature scheme". The timestamp is in Unix seconds.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
