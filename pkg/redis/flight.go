package redis

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// flight is one command, or a batch, on its way. A goroutine of its own waits for the answer: the caller may leave
// before, and then the flight belongs to the goroutine alone and is not used again.
type flight struct {
	client  *Client
	to      rueidis.Client
	one     rueidis.Completed
	many    []rueidis.Completed // instead of one
	ctx     context.Context     // until is it, except in Do
	cancel  context.CancelFunc
	until   until
	result  rueidis.RedisResult
	results []rueidis.RedisResult
	landed  chan struct{}
	timer   *time.Timer
	run     func() // fly, as a value, or each go statement would make one
}

// until is a context that nobody can wait for. With a true deadline a command given up would leave the queue without
// our knowing when its place is free; with none, a command that had to wait for a connection would be sent long after
// its caller has gone.
type until struct{ time time.Time }

func (u *until) Deadline() (time.Time, bool) { return time.Time{}, false }
func (u *until) Done() <-chan struct{}       { return nil }
func (u *until) Value(any) any               { return nil }

func (u *until) Err() error {
	if time.Now().Before(u.time) {
		return nil
	}
	return context.DeadlineExceeded
}

func (c *Client) newFlight() *flight {
	f := &flight{client: c, landed: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	f.timer.Stop()
	f.run = f.fly
	return f
}

// board is one place in flight, or ErrAway when there is none.
func (c *Client) board(to rueidis.Client, timeout time.Duration) (*flight, error) {
	if c.ctx.Err() != nil {
		return nil, errClosed
	}
	if timeout <= 0 {
		return nil, errLate
	}
	if c.inFlight.Add(1) > mostInFlight {
		c.inFlight.Add(-1)
		return nil, ErrBusy
	}
	f := c.flights.Get().(*flight)
	f.to = to
	f.ctx, f.until.time = &f.until, time.Now().Add(timeout)
	f.timer.Reset(timeout)
	return f, nil
}

// land gives a flight back whose goroutine is done.
func (c *Client) land(f *flight) {
	f.one, f.many, f.result, f.results, f.ctx, f.cancel = rueidis.Completed{}, nil, rueidis.RedisResult{}, nil, nil, nil
	c.flights.Put(f)
}

func (f *flight) fly() {
	if f.many != nil {
		f.results = f.to.DoMulti(f.ctx, f.many...)
	} else {
		f.result = f.to.Do(f.ctx, f.one)
	}
	if f.cancel != nil {
		f.cancel()
	}
	f.client.inFlight.Add(-1)
	f.landed <- struct{}{}
}

// wait sends what is in f. After an error f is lost.
func (f *flight) wait() error {
	go f.run()
	err := errLate
	select {
	case <-f.landed:
		f.timer.Stop()
		return nil
	case <-f.timer.C:
	case <-f.client.ctx.Done():
		err = errClosed
	}
	select {
	case <-f.landed: // both at once: what was done is better told
		f.timer.Stop()
		return nil
	default:
		return err
	}
}

func (c *Client) ask(to rueidis.Client, command rueidis.Completed, timeout time.Duration) (rueidis.RedisMessage, error) {
	f, err := c.board(to, timeout)
	if err != nil {
		return rueidis.RedisMessage{}, err
	}
	f.one = command
	if err := f.wait(); err != nil {
		return rueidis.RedisMessage{}, err
	}
	m, err := c.read(f.result)
	c.land(f)
	return m, err
}

// askAll puts what commands[i] came to into results[at[i]].
func (c *Client) askAll(to rueidis.Client, commands []rueidis.Completed, at []int, results []Result, timeout time.Duration) {
	if len(commands) == 0 {
		return
	}
	f, err := c.board(to, timeout)
	if err == nil {
		f.many = commands
		err = f.wait()
	}
	if err != nil {
		for _, i := range at {
			results[i] = Result{Err: err}
		}
		return
	}
	for n, i := range at {
		results[i].Message, results[i].Err = c.read(f.results[n])
	}
	c.land(f)
}
