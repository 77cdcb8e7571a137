package gateway

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/llmproxy/llmproxy/pkg/stats"
)

// A reader of the log that has stopped reading must not hold up a reload or
// the end of the process.
func TestAccessLogClosesBesideABlockedReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		a := NewAccessLog(w, stats.New("", ""))
		a.lines <- []byte("never read\n")
		synctest.Wait()
		a.Close()
		r.Close() // lets the writer go
	})
}

// A log that cannot be written for a while counts what it loses and takes
// what comes later.
func TestAccessLogSurvivesAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &moody{fail: true}
		set := stats.New("", "")
		a := NewAccessLog(w, set)
		a.lines <- []byte("lost\n")
		synctest.Wait()
		if n := set.LogDropped.Get(); n != 1 {
			t.Errorf("%d lines were lost, want 1", n)
		}
		w.set(false)
		a.lines <- []byte("kept\n")
		a.Close()
		if got := w.text(); got != "kept\n" {
			t.Errorf("wrote %q", got)
		}
	})
}

// moody is a writer that fails while told to.
type moody struct {
	mu   sync.Mutex
	fail bool
	b    strings.Builder
}

func (m *moody) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail {
		return 0, errors.New("no reader")
	}
	return m.b.Write(p)
}

func (m *moody) set(fail bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

func (m *moody) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.String()
}
