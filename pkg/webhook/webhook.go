// Package webhook delivers events to a billing system: in order, in batches,
// each at least once, for as long as it takes.
//
// A batch is a POST of a CloudEvents 1.0 JSON batch with the headers of Standard
// Webhooks 1.0. One is in flight at a time. What becomes of it, the status line
// alone decides; the rest of the answer may be cut or never come.
//
//	2xx                            delivered
//	408, 425, 429, 5xx, no answer  again: Config.Retry times in a row, then ever more slowly
//	413                            again in halves; a single event is dead
//	400, 422                       again in halves, until what is refused is one event: it is dead
//	410                            the end, until the process starts anew
//	3xx, 401, 403, 404 and others  again, slowly: someone has to change something
//
// A dead event goes to a file, and the next one has its turn. The batch and its
// id are the same bytes each time, so a receiver that remembers the events' ids
// counts each once.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"
)

// Event is one thing to tell.
type Event struct {
	Seq  uint64 // rises from event to event; gaps are fine
	ID   string // the CloudEvent's id, to name it in logs and in the dead-letter file
	Data []byte // the CloudEvent as a JSON object
}

// Config says what to send where. URL, Node and DeadLetter must be set.
type Config struct {
	URL    string // http or https; a user and password in it become basic authentication
	Secret []byte // signs each batch, see New; nil: no signature
	Node   string // names this sender in batch ids: letters, digits, - and _, at most 64

	Timeout   time.Duration // of one attempt, from dialling to the end of the answer; 0: 15 s
	Retry     int           // how many attempts follow the first at once, before the pauses grow
	MaxEvents int           // in a batch; 0: 500
	MaxBytes  int           // of a batch, unless one event alone is larger; 0: 256 KiB
	MaxAge    time.Duration // how long an event waits for its batch to fill; 0: 1 s

	DeadLetter string // the file for events that the receiver refuses; made when it is needed
	UserAgent  string // "": llmproxy

	Now    func() time.Time // nil: time.Now
	Jitter func() float64   // evenly spread over [0, 1), makes pauses differ; nil: math/rand
	Log    *slog.Logger     // never sees a secret, an event or an answer; nil: nobody is told
}

// ErrGone is what Run ends with when the receiver has answered 410: it wants no
// more events from here.
var ErrGone = errors.New("the receiver answered 410 Gone: it wants no more events")

// Sender sends events to one receiver.
type Sender struct {
	config Config
	key    []byte   // nil: no signature
	url    *url.URL // to be logged: without user, password and query
	client *http.Client
	grace  time.Duration // for the batch in hand, when Run is told to end
	wait   func(ctx context.Context, d time.Duration) error

	mu    sync.Mutex // of what follows
	stats Stats
}

// A receiver that is slower than this to accept the last batch gets it again
// after the restart.
const grace = 3 * time.Second

var nodePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// New returns a Sender, which sends nothing until Run is called.
//
// A secret that starts with "whsec_" goes on in base64, as Standard Webhooks
// writes it; any other is taken as its bytes. One of fewer than 16 bytes is
// refused: an empty key makes signatures that anybody can make.
func New(c Config) (*Sender, error) {
	u, err := url.Parse(c.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, errors.New("the webhook's url must be http:// or https:// with a host") // not quoted: it may hold a password
	}
	key, err := signingKey(c.Secret)
	if err != nil {
		return nil, err
	}
	if !nodePattern.MatchString(c.Node) {
		return nil, fmt.Errorf("the webhook's node %q must be 1 to 64 letters, digits, - or _", c.Node)
	}
	if c.DeadLetter == "" {
		return nil, errors.New("the webhook has no dead-letter file")
	}
	setDefaults(&c)
	return &Sender{
		config: c,
		key:    key,
		url:    &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path},
		client: newClient(),
		grace:  grace,
		wait:   wait,
		stats:  newStats(),
	}, nil
}

func setDefaults(c *Config) {
	if c.Timeout <= 0 {
		c.Timeout = 15 * time.Second
	}
	if c.MaxEvents <= 0 {
		c.MaxEvents = 500
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 256 << 10
	}
	if c.MaxAge <= 0 {
		c.MaxAge = time.Second
	}
	if c.UserAgent == "" {
		c.UserAgent = "llmproxy"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
