package app_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// canary is a secret that is given to the gateway and must be seen nowhere again,
// nor eight bytes of it in a row, plain, in hexadecimal or in base 64. Four
// characters may be shown.
type canary struct {
	name    string
	needles []string
}

// newCanary watches over a secret; a made key's prefix is none.
func newCanary(name, secret string) canary {
	const least = 8
	c := canary{name: name}
	core := strings.TrimPrefix(secret, "sk-llmproxy-")
	if len(core) < 2*least {
		panic("BUG: a canary that is too small to be told from other birds")
	}
	for i := range len(core) - least + 1 {
		piece := core[i : i+least]
		c.needles = append(c.needles, piece)
		if i%4 == 0 {
			c.needles = append(c.needles, hex.EncodeToString([]byte(piece)), strings.ToUpper(hex.EncodeToString([]byte(piece))))
		}
		// Three bytes are four digits: at one of three places in a row these nine
		// stand as they would in whatever is around.
		if i+9 <= len(core) && i%3 == 0 {
			for shift := range 3 {
				if i+shift+9 <= len(core) {
					c.needles = append(c.needles, base64.StdEncoding.EncodeToString([]byte(core[i+shift:i+shift+9])), base64.URLEncoding.EncodeToString([]byte(core[i+shift:i+shift+9])))
				}
			}
		}
	}
	return c
}

// sings returns what of the secret is in a text, "" when nothing is.
func (c *canary) sings(text string) string {
	for _, n := range c.needles {
		if strings.Contains(text, n) {
			return n
		}
	}
	return ""
}

// cage is where canaries are listened to.
type cage struct {
	t     *testing.T
	birds []canary

	mu    sync.Mutex
	heard []string // what was answered, by whom and what
}

// answered keeps an answer, to be looked at by quiet.
func (c *cage) answered(whose, text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, whose+"\n"+text)
	return text
}

// silent fails the test when a canary is in a text.
func (c *cage) silent(where, text string) {
	c.t.Helper()
	for _, bird := range c.birds {
		if n := bird.sings(text); n != "" {
			at := strings.Index(text, n)
			c.t.Errorf("%s has %s (%q): …%.300s…", where, bird.name, n, text[max(0, at-150):])
		}
	}
}

// silentAnswers looks at all answers.
func (c *cage) silentAnswers() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range c.heard {
		whose, body, _ := strings.Cut(text, "\n")
		c.silent("the answer to "+whose, body)
	}
}

// silentFiles looks at all files below a directory, and at their names.
func (c *cage) silentFiles(dir string) (files int) {
	c.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		c.silent("the file "+path, path+"\n"+string(b))
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	return files
}

// TestCanarySings: a cage that hears nothing shows nothing.
func TestCanarySings(t *testing.T) {
	const secret = "sk-llmproxy-Zx7Qw3Er9Ty2Ui5Op8As1Df4Gh6Jk0Lm3Nb"
	c, sum := newCanary("a key", secret), auth.Hash(secret)
	for name, text := range map[string]string{
		"plain": "key=" + secret, "its middle": "…" + secret[20:30] + "…", "its beginning": secret[:22], "quoted": fmt.Sprintf("%q", secret),
		"hex": hex.EncodeToString([]byte(secret)), "capital hex": fmt.Sprintf("%X", secret), "base 64": base64.StdEncoding.EncodeToString([]byte(secret)),
		"basic": base64.StdEncoding.EncodeToString([]byte(":" + secret)), "JSON in base 64": base64.RawURLEncoding.EncodeToString([]byte(`{"k":"` + secret + `"}`)),
	} {
		if c.sings(text) == "" {
			t.Errorf("%s is not heard: %s", name, text)
		}
	}
	for _, text := range []string{"sk-llmproxy-", "…" + secret[len(secret)-4:], hex.EncodeToString(sum[:]), ""} {
		if n := c.sings(text); n != "" {
			t.Errorf("%q is heard in %q", n, text)
		}
	}
}

// wire keeps what passed.
type wire struct {
	mu     sync.Mutex
	passed strings.Builder
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed.Write(p)
}

func (w *wire) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed.String()
}

// tapped is a connection of which is kept what goes out.
type tapped struct {
	net.Conn
	wire *wire
}

func (c tapped) Write(p []byte) (int, error) {
	_, _ = c.wire.Write(p)
	return c.Conn.Write(p)
}
