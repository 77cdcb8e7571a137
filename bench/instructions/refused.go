package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/llmproxy/llmproxy/bench/tenants"
)

// stranger is a client at an address of its own that has no key.
type stranger struct {
	conn   net.Conn
	reader *bufio.Reader
}

// strangers is how many there are: whoever tries more than 20 wrong keys is held
// up, and so are two who by chance are counted as one.
const strangers = (warmUp + batches*batch) / 5

// wrongKey is one request with a key that nobody has.
func (e *ends) wrongKey() error {
	if len(e.strangers) < strangers {
		s, err := e.meet(len(e.strangers))
		if err != nil {
			return err
		}
		e.strangers = append(e.strangers, s)
	} else {
		e.strangers = append(e.strangers[1:], e.strangers[0])
	}
	s := e.strangers[len(e.strangers)-1]
	client, reader := e.client, e.toClient
	defer func() { e.client, e.toClient = client, reader }()
	e.client, e.toClient = s.conn, s.reader
	return e.refused(chatBy("sk-fedcba9876543210", "chat", false), http.StatusUnauthorized)
}

// meet connects the i-th stranger. Linux takes all of 127.0.0.0/8 for its own.
func (e *ends) meet(i int) (*stranger, error) {
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i/250), byte(1+i%250))}}
	c, err := from.Dial("tcp", e.gateway.addr)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the gateway from another address: %w", err)
	}
	return &stranger{c, bufio.NewReader(c)}, nil
}

// over is one request of a tenant whose minute is used up. Before that is over it
// is the next tenant's turn, whose first request is counted with a batch, which is
// then not the least.
func (e *ends) over() error {
	if time.Since(e.spent) > 30*time.Second {
		if e.spender++; e.spender == others {
			return errors.New("all tenants have used up their minute")
		}
		e.spent = time.Now()
		if err := e.whole(chatBy(tenants.Secret(e.spender), "chat", false)); err != nil {
			return err
		}
	}
	return e.refused(chatBy(tenants.Secret(e.spender), "chat", false), http.StatusTooManyRequests)
}
