package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// The pauses between the attempts that follow the first at once.
	minPause = 50 * time.Millisecond
	maxPause = 250 * time.Millisecond
	// After them: between none and the whole of a time that doubles.
	firstBackoff = time.Second
	maxBackoff   = 5 * time.Minute
	// So many events may die in a row while nothing is accepted. Then each waits
	// and is tried again first: a receiver that answers 400 to a bad signature
	// must not empty the journal into the dead-letter file.
	maxDeadRow = 10
)

// errEnded ends a delivery whose context has ended.
var errEnded = errors.New("the sender was told to end")

// run is one call of Run.
type run struct {
	*Sender
	ctx  context.Context // ends when no new batch is wanted
	work context.Context // ends grace later
	next func(ctx context.Context) (Event, error)
	ack  func(seq uint64) error

	held       *Event  // had no room in the last batch
	deadRow    int     // dead events since the receiver accepted something
	loud       limiter // of complaints about the receiver
	complained bool    // since it last accepted something
	dead       limiter // of dead events
}

// Run sends what next returns, in its order, until ctx ends; then the batch in
// hand is tried once more, for 3 s at most, and Run returns nil. It must not be
// called while another Run of the Sender is going on.
//
// next waits for an event until its context ends; it returns either the event or
// an error, and then has taken none. An event's Data is not looked at after the
// following call. ack is told of each event's Seq, or of a later one's, once the
// receiver has it or it is in the dead-letter file. An error of ack is logged,
// and the next call stands for it: what was not acknowledged when the process
// ends is sent again by the next one. So a further Run's next begins after the
// last event that was acknowledged.
//
// Run ends early with ErrGone, or with an error of next after what came before
// it has been delivered.
func (s *Sender) Run(ctx context.Context, next func(ctx context.Context) (Event, error), ack func(seq uint64) error) error {
	if s.Stats().Stopped {
		return ErrGone
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(s.grace, cancel) })()
	r := &run{Sender: s, ctx: ctx, work: work, next: next, ack: ack}
	for {
		events, err := r.gather()
		if len(events) > 0 {
			if err := r.deliver(events); errors.Is(err, ErrGone) {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot get the next event to send: %w", err)
		}
	}
}

// gather takes events for a batch: until it is full, or MaxAge after the first.
// The error is one of next's, and not for the end of a context.
func (r *run) gather() (events []Event, err error) {
	ctx, size := r.ctx, len("[") // and after each event , or ]
	for len(events) < r.config.MaxEvents {
		e, err := r.take(ctx)
		if err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			return events, err
		}
		if len(events) == 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, r.config.MaxAge)
			defer cancel()
		} else if size+len(e.Data)+1 > r.config.MaxBytes {
			r.held = &e
			return events, nil
		}
		size += len(e.Data) + 1
		events = append(events, e)
	}
	return events, nil
}

func (r *run) take(ctx context.Context) (Event, error) {
	if e := r.held; e != nil {
		r.held = nil
		return *e, nil
	}
	e, err := r.next(ctx)
	e.Data = bytes.Clone(e.Data)
	return e, err
}

// deliver sends events, together or in parts, until each is accepted or dead.
// It ends early with ErrGone or errEnded.
func (r *run) deliver(events []Event) error {
	b, last := r.pack(events), events[len(events)-1]
	for try := 0; ; try++ {
		a := r.attempt(r.work, b)
		r.tell(a, r.count(a, len(events)))
		switch a.result {
		case delivered:
			r.deadRow = 0
			r.acknowledge(last.Seq)
			return nil
		case gone:
			return ErrGone
		case rejected, tooLarge:
			if len(events) > 1 {
				half := len(events) / 2
				if err := r.deliver(events[:half]); err != nil {
					return err
				}
				return r.deliver(events[half:])
			}
			if (r.deadRow < maxDeadRow || try > 0) && r.bury(last, a) {
				r.acknowledge(last.Seq)
				return nil
			}
		}
		if r.ctx.Err() != nil {
			return errEnded
		}
		if r.wait(r.ctx, r.pause(a, try)) != nil && a.retryAfter > 0 {
			return errEnded // it has asked for no more until then
		}
	}
}

// pause is how long to wait after a, the answer to attempt number try, from 0.
func (r *run) pause(a answer, try int) time.Duration {
	jitter := r.config.Jitter()
	passing := a.result == busy || a.result == unreachable || a.result == timeout
	if passing && try < r.config.Retry {
		return max(minPause+time.Duration(jitter*float64(maxPause-minPause)), a.retryAfter)
	}
	if passing {
		try -= r.config.Retry
	}
	try += max(r.deadRow-maxDeadRow, 0)
	ceiling := min(firstBackoff<<min(try, 20), maxBackoff) // 20: no overflow
	return max(time.Duration(jitter*float64(ceiling)), a.retryAfter)
}

func (r *run) acknowledge(seq uint64) {
	if err := r.ack(seq); err != nil {
		r.config.Log.Error("the webhook's progress cannot be kept: after a restart events are sent again", "seq", seq, "error", err)
	}
}
