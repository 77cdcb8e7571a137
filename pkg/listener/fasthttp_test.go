package listener

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
)

// Under fasthttp, with the settings the gateway has: pipelined keep-alive
// requests, bodies larger than the first read, an idle connection, and then a
// client that leaves while its request waits for the engine.
func TestUnderFasthttp(t *testing.T) {
	cert := certificate(t)
	for _, test := range []struct {
		name   string
		listen func(*testing.T) (*Listener, dialer)
		tls    bool
	}{
		{"TCP", dialTCP, false},
		{"TLS", dialTCP, true},
		{"in memory", dialMemory, false},
		{"TLS in memory", dialMemory, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "TLS" && !seesBehindBytes {
				t.Skip("this watch sees no end behind TLS's own goodbye")
			}
			l, dial := test.listen(t)
			causes := make(chan Cause, 1)
			server, served := serveEcho(l, causes, test.tls, cert)
			client, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			if test.tls {
				client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
			}
			answers := bufio.NewReader(client)
			for round := range 3 {
				for i := range 3 {
					post(t, client, "/", fmt.Sprint(round, i, strings.Repeat("x", i*5000)))
				}
				for i := range 3 {
					want := fmt.Sprint(round, i, strings.Repeat("x", i*5000))
					var resp fasthttp.Response
					if err := resp.Read(answers); err != nil {
						t.Fatal(err)
					}
					if string(resp.Body()) != want {
						t.Fatalf("round %d, answer %d: %d bytes, want %d", round, i, len(resp.Body()), len(want))
					}
				}
			}
			post(t, client, "/wait", "x")
			if c := receive(t, "the request is under way", causes); c != watching {
				t.Fatalf("cause %v before the client left", c)
			}
			client.Close()
			if c := receive(t, "leave", causes); c != Left {
				t.Errorf("cause %v", c)
			}
			if err := server.Shutdown(); err != nil {
				t.Error(err)
			}
			if err := receive(t, "Serve ends", served); err != nil {
				t.Errorf("Serve: %v", err)
			}
			eventually(t, "all is given back", func() bool { return l.Stats().Open == 0 })
			checkNoGoroutine(t)
		})
	}
}

type dialer func() (net.Conn, error)

func dialTCP(t *testing.T) (*Listener, dialer) {
	l := listenTCP(t, Options{WriteTimeout: time.Minute})
	return l, func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
}

func dialMemory(t *testing.T) (*Listener, dialer) {
	ln := fasthttputil.NewInmemoryListener()
	l, err := New(ln, Options{WriteTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return l, ln.Dial
}

// watching is what the handler of serveEcho reports before it waits.
const watching Cause = -1

// serveEcho serves bodies back; a request to /wait is answered when its client
// goes, and reports the cause.
func serveEcho(l *Listener, causes chan Cause, withTLS bool, cert tls.Certificate) (*fasthttp.Server, <-chan error) {
	server := &fasthttp.Server{
		ReduceMemoryUsage: true,
		StreamRequestBody: true,
		ReadTimeout:       time.Minute,
		Logger:            log.New(io.Discard, "", 0),
		Handler: func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) == "/wait" {
				c := FromConn(ctx.Conn())
				left := make(chan Cause, 1)
				if c.Watch(func(cause Cause) { left <- cause }) {
					left <- Left
				}
				causes <- watching
				causes <- <-left
				c.Unwatch()
			}
			body, err := io.ReadAll(ctx.RequestBodyStream())
			if err != nil {
				ctx.Error(err.Error(), fasthttp.StatusBadRequest)
				return
			}
			ctx.SetBody(body)
		},
	}
	var ln net.Listener = l
	if withTLS {
		ln = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	return server, served
}

func post(t *testing.T, c net.Conn, path, body string) {
	t.Helper()
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
}
