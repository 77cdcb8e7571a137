package keystore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

const (
	scanned   = "1000" // documents at once
	putAtOnce = 100    // documents: a script holds up all others for about a millisecond
	// fillPatience is how long whoever fills a store may do nothing.
	fillPatience = time.Second
)

// readAll joins the table with the store: of two documents of a key the later one
// counts, and the store gets those that it has not.
func (r *Redis) readAll(s sight, asked time.Time) error {
	found, err := r.scan(s)
	if err != nil {
		return err
	}
	r.learn(func() {
		r.takeAll(found)
		r.takeAll(r.table.without(found))
		r.epoch, r.loaded = s.epoch, true
		r.now.Version, r.now.Synced = s.position, asked
	})
	r.firstSnapshot()
	first := false
	r.learn(func() {
		first = r.now.Source != "redis"
		r.now.Source, r.serving, r.unborn = "redis", true, false
	})
	r.position, r.count = s.position, s.count
	if first {
		r.o.Log.Info("the keys are loaded from Redis", "redis", r.o.Place, "keys", len(r.Keys()))
	}
	behind := r.known(func(id auth.ID, e entry) bool { return e.revision > found[id].revision })
	lacked, err := r.putBack(s.epoch, "put", behind)
	if lacked > 0 {
		r.o.Log.Warn("the key store had lost changes; they are put back", "redis", r.o.Place, "keys", lacked)
	}
	r.whole = err == nil
	return err
}

// scan is all documents in the store, as they are or later.
func (r *Redis) scan(s sight) (map[auth.ID]entry, error) {
	found := make(map[auth.ID]entry, s.count)
	others := map[string]bool{} // fields that are no id: a person's
	rd := newReader(nil)
	for cursor := "0"; ; {
		m, err := r.o.Client.Do(askTime, "HSCAN", r.names[0], cursor, "COUNT", scanned)
		if err != nil {
			return nil, err
		}
		part, err := m.AsScanEntry()
		if err != nil || len(part.Elements)%2 != 0 {
			return nil, fmt.Errorf("redis answers what HSCAN does not: %w", err)
		}
		for pair := range slices.Chunk(part.Elements, 2) {
			id, err := auth.ParseID(pair[0])
			if err != nil || id.String() != pair[0] {
				others[pair[0]] = true
				continue
			}
			found[id] = rd.only([]byte(pair[1]), id)
		}
		if part.Cursor == 0 {
			break
		}
		cursor = strconv.FormatUint(part.Cursor, 10)
	}
	// It may have been emptied meanwhile, or another server have gone on for it, for
	// which a cursor means something else.
	after, err := r.look()
	if err == nil && (after.epoch != s.epoch || after.position < s.position || int64(len(found)+len(others)) < s.count) {
		err = errMoved
	}
	return found, err
}

// known are the ids of entries that a store can be given, and that are wanted.
func (r *Redis) known(wanted func(auth.ID, entry) bool) (ids []auth.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.table.entries {
		if e.fault == nil && wanted(id, e) {
			ids = append(ids, id)
		}
	}
	return ids
}

// restore puts everything back in a store that was emptied, the epoch first, in a
// form that says it is not all yet: nobody takes the store for another, or for whole.
// One does it for all, who add what only they know when it is done. filling tells that
// somebody has begun; the position shows whether he goes on.
func (r *Redis) restore(epoch string, filling bool, s sight) error {
	r.whole = false
	r.learn(func() {
		if !r.now.Lost {
			r.now.Lost = true
			r.now.Losses++
			r.o.Log.Error("the key store was emptied; the keys stay as they are", "redis", r.o.Place)
		}
	})
	// Who knows only an old snapshot says whose the documents are that are there, and
	// is joined with them as with any store.
	if adrift := s.count > 0 && !filling; !r.serving && !adrift {
		return fmt.Errorf("the key store in %s was emptied, and the snapshot %s is too old to fill it: waiting for another gateway. If there is none, raise auth.snapshot_max_age until it is not, or remove the snapshot to begin without keys", r.o.Place, r.path())
	}
	if filling && r.goesOn(s.position) {
		return errRestoring
	}
	if first, err := r.putBack(epoch, "begin", nil); err != nil || first == 0 && !filling {
		return cmp.Or(err, errRestoring)
	}
	all := r.known(func(auth.ID, entry) bool { return r.serving })
	if _, err := r.putBack(epoch, "put", all); err != nil {
		return err
	}
	if _, err := r.putBack(epoch, "end", nil); err != nil {
		return err
	}
	r.o.Log.Warn("the keys are in the key store again", "redis", r.o.Place, "keys", len(r.Keys()))
	r.recognized()
	return nil
}

// goesOn reports whether a store that is being filled has moved in the last second.
func (r *Redis) goesOn(position int64) bool {
	if position != r.filled || r.filledAt.IsZero() {
		r.filled, r.filledAt = position, time.Now()
	}
	return time.Since(r.filledAt) < fillPatience
}

var errStolen = errors.New("another store took the place of the one that was emptied")

// putBack runs a step of heal.lua, with some documents at a time. It returns how many
// of them the store lacked.
func (r *Redis) putBack(epoch, step string, ids []auth.ID) (lacked int64, err error) {
	for first := true; first || len(ids) > 0; first = false {
		some := ids[:min(len(ids), putAtOnce)]
		ids = ids[len(some):]
		args := []string{epoch, step}
		for id, e := range r.entries(some) {
			text, err := e.document(id)
			if err != nil {
				return lacked, err
			}
			args = append(args, id.String(), text)
		}
		a, err := r.run(healScript, args...)
		switch {
		case err != nil:
			return lacked, fmt.Errorf("cannot put the keys back: %w", err)
		case a[0] == "epoch" && a[1] != "":
			return lacked, errStolen
		case a[0] == "epoch":
			return lacked, errEmptied
		}
		n, err := strconv.ParseInt(a[1], 10, 64)
		if err != nil {
			return lacked, err
		}
		lacked += n
	}
	return lacked, nil
}

// entries are those of ids.
func (r *Redis) entries(ids []auth.ID) map[auth.ID]entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	some := make(map[auth.ID]entry, len(ids))
	for _, id := range ids {
		some[id] = r.table.entries[id]
	}
	return some
}
