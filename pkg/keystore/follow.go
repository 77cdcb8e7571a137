package keystore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

const (
	// lookEvery is how often a store that is followed is looked at. What changes in
	// it comes at once; an epoch that is gone does not.
	lookEvery = 500 * time.Millisecond
	// retryAfter is how long a store that cannot be followed is left alone.
	retryAfter = 200 * time.Millisecond
	mostRead   = 1000 // changes at once
)

// afterAll behind a position is the ID of an entry behind all that begin with it: only
// the first of them is a change.
const afterAll = "-18446744073709551615"

// restoring behind an epoch says that the store was emptied and that its documents
// are being put back.
const restoring = ":restoring"

var (
	errNoStore   = fmt.Errorf("%w: there is no key store yet: waiting for whoever knows its keys", ErrAway)
	errNoEpoch   = fmt.Errorf("%w: the key store has lost its epoch: waiting for a gateway that knows it", ErrAway)
	errRestoring = fmt.Errorf("%w: the key store was emptied: waiting for the gateway that puts its keys back", ErrAway)
	errMoved     = fmt.Errorf("%w: the key store changed while it was read", ErrAway)
)

// follower is how far Run, or Load, is; nobody else uses it.
type follower struct {
	whole    bool      // the table has all that the store had at the position
	position int64     // of the log
	count    int64     // documents at the last look: there never are fewer
	missing  time.Time // since when there is no store; zero while there is one
	filled   int64     // the position at the last look at a store that is being filled
	filledAt time.Time
	damaged  bool // there was a snapshot that cannot be read
}

// sight is where a store is.
type sight struct {
	epoch           string
	position, count int64
}

// Run loads the keys and follows their changes until ctx ends. It puts back what the
// store has lost, and writes the snapshot. A store that has never been one, and that
// nobody claims for two seconds, it makes.
func (r *Redis) Run(ctx context.Context) {
	var writing sync.WaitGroup
	writing.Go(func() { r.keepSnapshot(ctx) })
	for ctx.Err() == nil {
		err := r.catchUp()
		if adopting := errors.Is(err, errNoEpoch); adopting && r.waited(r.adopt) || r.unclaimed(err) {
			err = r.found(adopting)
		}
		r.learn(func() { r.ended(err) })
		r.tell()
		if err == nil {
			err = r.follow()
			r.tell()
		}
		if err != nil {
			r.learn(func() { r.ended(err) })
			r.tell()
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		}
	}
	writing.Wait()
}

// Load reads the keys once, for a process that does not Run. Where there is no store
// there are no keys, and the first that is added makes one. It waits for a Redis that
// is away until timeout is over.
func (r *Redis) Load(timeout time.Duration) error {
	for ends := time.Now().Add(timeout); ; time.Sleep(retryAfter / 4) {
		err := r.catchUp()
		if r.unclaimed(err) {
			r.update(func() { r.unborn = true })
			err = nil
		}
		r.update(func() { r.ended(err) })
		if err == nil || !errors.Is(err, ErrAway) || time.Now().After(ends) {
			return err
		}
	}
}

// ended is how a look at the store went. It needs mu.
func (r *Redis) ended(err error) {
	if r.now.Err = err; err == nil {
		r.heard = time.Now()
	}
}

// learn is update, for what Changed is called for.
func (r *Redis) learn(change func()) {
	if r.update(change) {
		r.untold.Store(true)
	}
}

func (r *Redis) tell() {
	if r.untold.Swap(false) {
		r.o.Changed()
	}
}

// wake tells who writes the snapshot that there may be something to write.
func (r *Redis) wake() {
	select {
	case r.snapshot <- struct{}{}:
	default:
	}
}

// catchUp looks at the store and reads all of it if the log cannot tell the way from
// the table to there. Without an error the table is that of the store at the position.
func (r *Redis) catchUp() error {
	asked := r.o.Now()
	s, err := r.look()
	if err != nil {
		return fmt.Errorf("cannot ask for the keys: %w", err)
	}
	if s, err = r.recognize(s); err != nil {
		return err
	}
	if !r.whole || s.position < r.position || s.count < r.count {
		r.whole = false
		if err := r.readAll(s, asked); err != nil {
			return fmt.Errorf("cannot read the keys: %w", err)
		}
	}
	r.count = max(r.count, s.count)
	if r.position >= s.position {
		r.learn(func() { r.now.Synced = asked })
		r.wake()
	}
	return nil
}

func (r *Redis) look() (s sight, err error) {
	a, err := r.run(lookScript)
	if err != nil {
		return s, err
	}
	s.epoch = a[0]
	if s.position, err = strconv.ParseInt(a[1], 10, 64); err == nil {
		s.count, err = strconv.ParseInt(a[2], 10, 64)
	}
	return s, err
}

// recognize is an error unless the store is the table's, or the table has no store
// yet. A store that was emptied it fills again, and looks at once more.
func (r *Redis) recognize(s sight) (sight, error) {
	ours := r.epoch // which others change only before the first look
	theirs, filling := strings.CutSuffix(s.epoch, restoring)
	switch {
	case ours == "" && filling:
		r.missing = time.Time{}
		return s, errRestoring
	case ours == "" && theirs == "" && (s.count > 0 || s.position > 0):
		return s, errNoEpoch
	case ours == "" && theirs == "":
		return s, errNoStore
	case ours == "" || s.epoch == ours:
		r.missing = time.Time{}
		r.recognized()
		return s, nil
	case theirs == "" || theirs == ours:
		if err := r.restore(ours, filling, s); err != nil {
			return s, err
		}
		return r.look()
	}
	if r.whole = false; !r.now.Foreign {
		r.o.Log.Error("the Redis of the keys holds those of another store; the keys stay as they are", "redis", r.o.Place, "error", r.errForeign())
	}
	r.learn(func() { r.now.Foreign = true })
	return s, r.errForeign()
}

// recognized ends what was wrong with the store.
func (r *Redis) recognized() {
	if r.now.Foreign {
		r.o.Log.Info("the Redis of the keys is the one of before again", "redis", r.o.Place)
	}
	r.filledAt = time.Time{}
	r.learn(func() { r.now.Foreign, r.now.Lost = false, false })
}

// waited reports whether there has been no epoch for so long that nobody knows one.
func (r *Redis) waited(long time.Duration) bool {
	if r.missing.IsZero() {
		r.missing = time.Now()
	}
	return time.Since(r.missing) >= long
}

// unclaimed reports whether there is no store, and nobody who knows of one.
func (r *Redis) unclaimed(err error) bool {
	return errors.Is(err, errNoStore) && !r.damaged && r.waited(r.newTime)
}

// found makes a store, unless somebody else just has, and loads it. Documents that are
// there are adopted.
func (r *Redis) found(adopting bool) error {
	if _, err := r.o.Client.Do(askTime, "SET", r.names[2], rand.Text(), "NX"); err != nil {
		return fmt.Errorf("cannot make a key store: %w", err)
	}
	if adopting {
		r.o.Log.Warn("nobody knows the epoch that the key store has lost; it has a new one now, and the keys that were there", "redis", r.o.Place)
	} else {
		r.o.Log.Info("there was no key store in the Redis; there is one now", "redis", r.o.Place)
	}
	return r.catchUp()
}

// follow waits for changes after the position, for a while, and takes them over.
func (r *Redis) follow() error {
	m, err := r.o.Client.Do(r.every+askTime, "XREAD", "COUNT", strconv.Itoa(mostRead), "BLOCK",
		strconv.FormatInt(r.every.Milliseconds(), 10), "STREAMS", r.names[1], strconv.FormatInt(r.position, 10)+afterAll)
	if err == nil && m.IsNil() {
		return nil
	}
	var streams map[string][]rueidis.XRangeEntry
	if err == nil {
		streams, err = m.AsXRead()
	}
	if err != nil {
		return fmt.Errorf("cannot follow the keys: %w", err)
	}
	found := make(map[auth.ID]entry)
	rd := newReader(nil)
	for _, e := range streams[r.names[1]] {
		if r.whole = r.next(rd, e, found); !r.whole {
			break // the next look reads all
		}
	}
	r.learn(func() {
		r.takeAll(found)
		r.now.Version = r.position
	})
	r.wake()
	return nil
}

// next moves the position over an entry of the log, unless there were others between.
func (r *Redis) next(rd *reader, e rueidis.XRangeEntry, found map[auth.ID]entry) bool {
	digits, ok := strings.CutSuffix(e.ID, "-0")
	position, err := strconv.ParseInt(digits, 10, 64)
	id, bad := auth.ParseID(e.FieldValues["id"])
	if !ok || err != nil || bad != nil || e.FieldValues["prev"] != strconv.FormatInt(r.position, 10) {
		return false
	}
	r.position = position
	if got := rd.only([]byte(e.FieldValues["doc"]), id); got.revision > found[id].revision {
		found[id] = got
	}
	return true
}
