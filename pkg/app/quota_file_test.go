package app_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// stop ends the gateway as a deployment does.
func (s *quotaSite) stop(t *testing.T) {
	t.Helper()
	s.signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// refuses wants the gateway not to start, and to say all of that.
func (s *quotaSite) refuses(t *testing.T, words ...string) {
	t.Helper()
	s.process = startProcess(t, binary(t, "llmproxy"), "serve", "-config", s.file)
	if code := s.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, text := range words {
		if !strings.Contains(s.output.String(), text) {
			t.Errorf("it does not say %q", text)
		}
	}
}

// one has a request of a key served.
func (s *quotaSite) one(t *testing.T, key int) {
	t.Helper()
	if a := (limitKey{s.addr, s.keys[key]}).say("POST", chatPath, quotaChat); a.status != http.StatusOK {
		t.Fatalf("%d %s %v", a.status, a.body, a.err)
	}
}

// used is what each key is told.
func (s *quotaSite) used(t *testing.T) (used [3]int64) {
	t.Helper()
	for i := range s.keys {
		used[i] = s.quota(t, i).Used
	}
	return used
}

func quotaFile(t *testing.T, s *quotaSite) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(s.dir, "quota")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content
}

// TestQuotaFileIsDamaged: a gateway that went on without the file would give every
// quota anew, so it does not start, whatever has become of the file.
func TestQuotaFileIsDamaged(t *testing.T) {
	leavesNothing(t)
	s := startQuotaSite(t, false, "")
	for i := range s.keys {
		s.one(t, i)
	}
	want := s.used(t)
	s.stop(t)
	path, good := quotaFile(t, s)
	digit := bytes.LastIndexByte(good, '\n')
	for name, bad := range map[string][]byte{
		"empty":            {},
		"torn":             good[:len(good)/2],
		"one digit edited": bytes.Replace(good, []byte("Z 5"), []byte("Z 4"), 1),
		"one bit":          append(append([]byte{}, good[:digit-1]...), good[digit-1]^1, '\n'),
		"zeros":            make([]byte, len(good)),
	} {
		t.Run(name, func(t *testing.T) {
			if bytes.Equal(bad, good) {
				t.Fatal("it is not damaged")
			}
			writeFile(t, path, string(bad))
			s.refuses(t, path, "it is damaged", "put a copy of it back, or remove it")
		})
	}
	writeFile(t, path, string(good))
	s.run(t)
	if used := s.used(t); used != want {
		t.Errorf("%v tokens are used, %v were", used, want)
	}
}

// TestQuotaFileIsLost: without the file, or with an old copy of it, what the journal
// still has is added up again; only a reset after which nothing was used is lost.
func TestQuotaFileIsLost(t *testing.T) {
	leavesNothing(t)
	for _, hook := range []bool{true, false} {
		s := startQuotaSite(t, hook, "")
		s.one(t, 0)
		s.one(t, 1)
		s.stop(t)
		path, old := quotaFile(t, s)
		s.run(t)
		s.one(t, 1)
		s.one(t, 2)
		if _, ok := s.reset(t, 2); !ok {
			t.Fatal("no answer")
		}
		s.one(t, 2)
		want := s.used(t)
		s.stop(t)
		for name, content := range map[string][]byte{"deleted": nil, "an old copy": old} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if content != nil {
				writeFile(t, path, string(content))
			}
			s.run(t)
			if used := s.used(t); used != want {
				t.Errorf("hook %t, %s: %v tokens are used, %v were", hook, name, used, want)
			}
			s.says("reading again what the journal still has")
			s.kill()
			s.run(t)
			if used := s.used(t); used != want {
				t.Errorf("hook %t, %s, after a kill: %v tokens are used, %v were", hook, name, used, want)
			}
			s.stop(t)
		}
		s.run(t)
		s.one(t, 0)
		apptest.Eventually(t, "it goes on counting", func() bool { return s.used(t)[0] > want[0] })
	}
}
