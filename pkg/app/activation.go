package app

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// passedSocket is a listening socket that the service manager opened before it
// started this process, and that stays open when the process ends
// (sd_listen_fds(3)): clients that come in between wait in its queue.
type passedSocket struct {
	net.Listener
	name string // of LISTEN_FDNAMES
}

func (s passedSocket) String() string { return fmt.Sprintf("%q at %s", s.name, s.Addr()) }

// passedSockets are those that nothing listens on yet.
type passedSockets []passedSocket

// receiveSockets returns those that were passed to this process, most often none.
// They are told once.
func receiveSockets() (passedSockets, error) {
	var all passedSockets
	for _, f := range activation.Files(true) {
		ln, err := listenerOf(f)
		if err != nil {
			all.close()
			return nil, fmt.Errorf("cannot use the socket %q that systemd passed: %w", f.Name(), err)
		}
		all = append(all, passedSocket{ln, f.Name()})
	}
	return all, nil
}

// listenerOf takes f over.
func listenerOf(f *os.File) (net.Listener, error) {
	defer f.Close() // the listener has a descriptor of its own
	listens, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if listens == 0 {
		return nil, errors.New("it does not listen; the .socket unit needs ListenStream= and Accept=no")
	}
	return net.FileListener(f)
}

// main takes the socket that the key listen asks for. It is nil when this process
// is to open one: nothing was passed, and the key holds an address.
func (p *passedSockets) main(listen string) (net.Listener, error) {
	name, named := strings.CutPrefix(listen, "systemd:")
	ln := p.take(func(s passedSocket) bool {
		return listen == "systemd" || named && s.name == name || sameSocket(listen, s.Addr())
	})
	switch {
	case ln != nil:
		return ln, nil
	case len(*p) > 0:
		return nil, fmt.Errorf("cannot listen: listen is %s, and systemd passed only %v; write the address of the .socket unit, or systemd", listen, *p)
	case named || listen == "systemd":
		return nil, fmt.Errorf("cannot listen: listen is %s, and systemd passed no socket (LISTEN_FDS); start the .socket unit", listen)
	}
	return nil, nil
}

// take removes the first one that matches; nil = none does.
func (p *passedSockets) take(matches func(passedSocket) bool) net.Listener {
	i := slices.IndexFunc(*p, matches)
	if i < 0 {
		return nil
	}
	ln := (*p)[i].Listener
	*p = slices.Delete(*p, i, i+1)
	return ln
}

// close closes this process's descriptors of them.
func (p passedSockets) close() {
	for _, s := range p {
		s.Close()
	}
}

// sameSocket tells whether a socket has the address that a configuration names.
// Every address of the machine is one address, of whichever family.
func sameSocket(listen string, addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return listen == "unix:"+a.Name
	case *net.TCPAddr:
		want, err := net.ResolveTCPAddr("tcp", listen)
		return err == nil && want.Port == a.Port && (want.IP.Equal(a.IP) || anyAddress(want.IP) && anyAddress(a.IP))
	}
	return false
}

func anyAddress(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }
