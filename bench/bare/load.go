//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pause is how long a connection that failed waits before it is tried again,
// where nothing else sets the pace.
const pause = 10 * time.Millisecond

// stdin is the id of standard input at the poller; callers count from 0.
const stdin = -1

// load is one run of the generator.
type load struct {
	*options
	*figures
	sockaddrs []unix.SockaddrInet4 // of the targets
	ask       []byte               // the request
	poll      *poller
	callers   []*caller
	free      [][]*caller // open: those with no request, by target, the last one used first
	sent      int64       // open: arrivals that got a connection
	timers    timers
	began     time.Time
	now       time.Duration // since began
	counting  bool
	buf       []byte

	held, failed int // hold
	told         bool
	ended        bool
}

func runLoad(args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	l := &load{
		options: o, figures: newFigures(), buf: make([]byte, readBuffer), free: make([][]*caller, len(o.targets)),
	}
	for _, t := range o.targets {
		l.sockaddrs = append(l.sockaddrs, unix.SockaddrInet4{Port: int(t.Port()), Addr: t.Addr().As4()})
	}
	if l.ask, err = o.request(); err != nil {
		return err
	}
	if l.poll, err = newPoller(); err != nil {
		return err
	}
	took, err := l.run()
	if err != nil {
		return err
	}
	for _, c := range l.callers {
		c.hangUp()
	}
	return json.NewEncoder(os.Stdout).Encode(l.report(took))
}

// run makes the load and returns for how long it was counted.
func (l *load) run() (time.Duration, error) {
	l.callers = make([]*caller, l.conns)
	for i := range l.callers {
		l.callers[i] = newCaller(i, i%len(l.targets))
	}
	l.began = time.Now()
	l.begin()
	l.counting = l.warmup == 0
	for l.now = 0; !l.over(); l.now = time.Since(l.began) {
		events, err := l.poll.wait(l.timers.next(l.now, l.nextTurn()))
		if err != nil {
			return 0, err
		}
		l.now = time.Since(l.began)
		for i := range events {
			if id := events[i].Fd; id == stdin {
				l.readStdin()
			} else if c := l.callers[id]; c.generation == events[i].Pad {
				l.ready(c, events[i].Events)
			}
		}
		for t := l.timers.expired(l.now); t != nil; t = l.timers.expired(l.now) {
			l.start(l.callers[t.id], time.Since(l.began))
		}
		if err := l.turn(); err != nil {
			return 0, err
		}
	}
	return l.now - l.warmup, nil
}

// begin sets when each connection starts.
func (l *load) begin() {
	for i, c := range l.callers {
		switch l.mode {
		case openLoop:
			l.free[c.target] = append(l.free[c.target], c)
		case holding:
			l.timers.set(&c.timer, at(i, l.ramp))
		case streaming:
			if !l.together {
				l.timers.set(&c.timer, at(i, float64(l.conns)))
				continue
			}
			l.timers.set(&c.timer, 0)
		default:
			l.timers.set(&c.timer, 0)
		}
	}
}

// at is when the i-th of rate per second is due.
func at(i int, rate float64) time.Duration {
	return time.Duration(float64(i) / rate * float64(time.Second))
}

// over tells whether the run has ended. What is under way then is cut.
func (l *load) over() bool {
	return l.ended || l.mode != holding && l.now >= l.warmup+l.duration
}

// nextTurn is how long the loop may wait, timers and sockets aside; negative is
// for ever.
func (l *load) nextTurn() time.Duration {
	end := l.warmup + l.duration
	switch {
	case l.mode == holding && l.told:
		return -1
	case l.mode == holding:
		end = l.holdBy()
	case !l.counting:
		end = l.warmup
	}
	if l.mode == openLoop && len(*l.turns()) > 0 {
		end = min(end, at(int(l.sent), l.rate))
	}
	return max(end-l.now, 0)
}

// turns are the connections of which the next arrival gets one: targets take
// turns.
func (l *load) turns() *[]*caller { return &l.free[int(l.sent)%len(l.free)] }

// turn does what is due now, timers and sockets aside.
func (l *load) turn() error {
	l.counting = l.now >= l.warmup
	if l.mode == openLoop {
		for free := l.turns(); len(*free) > 0; free = l.turns() {
			due := at(int(l.sent), l.rate)
			if due > l.now {
				break
			}
			c := (*free)[len(*free)-1]
			*free = (*free)[:len(*free)-1]
			l.sent++
			l.start(c, due)
		}
	}
	if l.mode == holding && !l.told && (l.held+l.failed == l.conns || l.now >= l.holdBy()) {
		return l.tellHeld()
	}
	return nil
}

// holdBy is when a stream to be held must have had its first event.
func (l *load) holdBy() time.Duration {
	return at(l.conns, l.ramp) + l.wait
}

// tellHeld says how many streams stand; from now on the end of stdin ends the run.
func (l *load) tellHeld() error {
	l.told = true
	fmt.Fprintf(os.Stdout, "held %d failed %d\n", l.held, l.conns-l.held)
	if l.poll.set(unix.EPOLL_CTL_ADD, int(os.Stdin.Fd()), unix.EPOLLIN, stdin, 0) != nil {
		l.ended = true // a file or /dev/null: it has ended already
	}
	return nil
}

func (l *load) readStdin() {
	n, err := unix.Read(int(os.Stdin.Fd()), l.buf)
	l.ended = n == 0 || err != nil && err != unix.EINTR
}

// fail counts an error that ended c's request and with it the connection.
func (l *load) fail(c *caller, reason string, err error) {
	if l.firstOfErrors() {
		l.firstError = reason
		if err != nil {
			l.firstError += ": " + err.Error()
		}
	}
	c.hangUp()
	l.next(c, pause)
}

// firstOfErrors counts an error, and tells whether it is the one to be named.
func (l *load) firstOfErrors() bool {
	if !l.counting {
		return false
	}
	l.errors++
	return l.errors == 1
}

// next gives c, whose request has ended, its next one.
func (l *load) next(c *caller, after time.Duration) {
	waiting := c.waiting
	c.busy, c.waiting = false, false
	switch l.mode {
	case openLoop:
		l.free[c.target] = append(l.free[c.target], c)
	case holding:
		if waiting {
			l.failed++
		}
	default:
		if after > 0 {
			l.timers.set(&c.timer, l.now+after)
			return
		}
		l.start(c, time.Since(l.began))
	}
}
