package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	maxAnswer     = 64 << 10 // bytes of an answer that are read, so that the connection serves again
	keptAnswer    = 1 << 10  // bytes of them that the dead-letter file gets
	maxRetryAfter = time.Hour
)

// batch is what one POST carries. Its body is not used again for another batch:
// net/http may still be reading it when the answer is there.
type batch struct {
	id   string
	body []byte
}

// answer is what came of an attempt.
type answer struct {
	result     result
	status     int           // 0: none came
	cause      string        // why none came
	retryAfter time.Duration // at most maxRetryAfter
	location   string        // of a redirect, without user, password and query
	text       string        // how the body begins; perhaps not UTF-8
	took       time.Duration
}

// newClient returns a client of this package's own: what the environment or
// another package sets for the default one does not lead bills elsewhere.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			MaxIdleConns:           1,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxAnswer,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// pack puts events into a batch.
func (s *Sender) pack(events []Event) batch {
	size := 1
	for _, e := range events {
		size += len(e.Data) + 1
	}
	body := append(make([]byte, 0, size), '[')
	for i, e := range events {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.Data...)
	}
	return batch{
		id:   fmt.Sprintf("%s-%d-%d", s.config.Node, events[0].Seq, events[len(events)-1].Seq),
		body: append(body, ']'),
	}
}

// attempt sends b once.
func (s *Sender) attempt(ctx context.Context, b batch) (a answer) {
	began := s.config.Now()
	defer func() { a.took = s.config.Now().Sub(began) }()
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.config.URL, bytes.NewReader(b.body))
	if err != nil {
		return answer{result: unreachable, cause: "the url is invalid"} // New has parsed it
	}
	timestamp := strconv.FormatInt(began.Unix(), 10)
	req.Header.Set("Content-Type", "application/cloudevents-batch+json; charset=utf-8")
	req.Header.Set("User-Agent", s.config.UserAgent)
	req.Header.Set("Idempotency-Key", b.id) // also lets net/http take a new connection for a kept one that turns out closed
	req.Header.Set("Webhook-Id", b.id)
	req.Header.Set("Webhook-Timestamp", timestamp)
	if s.key != nil {
		req.Header.Set("Webhook-Signature", sign(s.key, b.id, timestamp, b.body))
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return unanswered(ctx, err)
	}
	defer resp.Body.Close()
	return s.read(resp)
}

// unanswered tells why no answer came, without the URL, which may hold a
// password.
func unanswered(ctx context.Context, err error) answer {
	if ctx.Err() != nil {
		return answer{result: timeout, cause: "no answer in time"}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return answer{result: unreachable, cause: err.Error()}
}

// read judges an answer. An error in its body changes nothing: the receiver has
// said the status.
func (s *Sender) read(resp *http.Response) answer {
	a := answer{result: classify(resp.StatusCode), status: resp.StatusCode}
	a.retryAfter = s.retryAfter(resp.Header.Get("Retry-After"))
	if u, err := resp.Location(); err == nil && a.result == redirected {
		a.location = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, keptAnswer))
	a.text = string(text)
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer-keptAnswer)
	return a
}

func classify(status int) result {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return busy
	case http.StatusRequestEntityTooLarge:
		return tooLarge
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return rejected
	case http.StatusGone:
		return gone
	}
	switch status / 100 {
	case 2:
		return delivered
	case 3:
		return redirected
	case 5:
		return busy
	}
	return refused
}

// retryAfter reads seconds or a date, RFC 9110 section 10.2.3: 0 or less for
// anything else, and for what is past.
func (s *Sender) retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		return maxRetryAfter
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(date.Sub(s.config.Now()), maxRetryAfter)
}
