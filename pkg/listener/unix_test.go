package listener

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestUnixSocketFile: what may stand where the socket is to be, and what is done
// about it.
func TestUnixSocketFile(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    error // nil = it is replaced
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"a socket in use is taken over", func(t *testing.T, path string) { listenPlain(t, path) }, syscall.EADDRINUSE},
		{"a killed process's file keeps the next from starting", func(t *testing.T, path string) {
			ln := listenPlain(t, path)
			ln.SetUnlinkOnClose(false)
			ln.Close()
		}, nil},
		{"a file that is no socket is removed", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, errNoSocket},
		{"the directory is missing", func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, fs.ErrNotExist},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "d", "s")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			test.prepare(t, path)
			before, _ := os.ReadFile(path)
			l, err := Listen("unix", path, Options{})
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err != nil {
				if after, _ := os.ReadFile(path); string(after) != string(before) {
					t.Error("what was there has gone")
				}
				return
			}
			pair(t, l)
			l.Close()
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file outlives the listener: %v", err)
			}
		})
	}
}

func listenPlain(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.UnixListener)
}

func TestUnixSocketMode(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666} { // the last is wider than any umask
		path := filepath.Join(t.TempDir(), "s")
		listen(t, "unix", path, Options{SocketMode: mode})
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != mode {
			t.Errorf("mode %v, want %v", got, mode)
		}
	}
}

// Until it listens, nobody can connect to a file whose mode is not set yet.
func TestUnixSocketIsNotReachableBeforeItsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	file, err := bindUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

func TestUnixClientIsLoopback(t *testing.T) {
	l := listen(t, "unix", filepath.Join(t.TempDir(), "s"), Options{MaxConnsPerIP: 1})
	for range 2 { // more than of one address
		_, server := pair(t, l)
		if a, ok := server.RemoteAddr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
			t.Errorf("it is %v", server.RemoteAddr())
		}
	}
}

// A connection that was taken from the queue when Close began is served: to its
// client it was accepted.
func TestCloseKeepsWhatWasAccepted(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	ln := &scripted{closed: make(chan struct{})}
	l, err := New(ln, Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	ln.conn = server
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("it was dropped: %v", err)
	}
	c.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after it: %v", err)
	}
}
