package keystore

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

var (
	errNotLoaded  = fmt.Errorf("%w: the keys are not loaded yet", ErrAway)
	errEmptied    = fmt.Errorf("%w: the key store was emptied, and its keys are being put back", ErrAway)
	errContention = errors.New("others change the key all the time")
)

// Add keeps k, as Store says. The error wraps ErrAway while Redis cannot be asked.
func (r *Redis) Add(k *auth.Key) error {
	k.Source = auth.InRedis
	if k.Created == 0 {
		k.Created = auth.At(r.o.Now())
	}
	_, _, err := r.change(k.ID(), func(e entry) (*auth.Key, error) {
		if e.key != nil || e.fault != nil {
			return nil, errExists
		}
		return k, nil
	})
	return err
}

// Replace changes a key, as Store says, with errors like those of Add.
func (r *Redis) Replace(id auth.ID, edit func(auth.Key) (*auth.Key, error)) (*auth.Key, error) {
	_, after, err := r.change(id, func(e entry) (*auth.Key, error) {
		switch {
		case e.fault != nil:
			return nil, fmt.Errorf("cannot read key %s as it is in the store: a newer LLMProxy may have written it, then use that; or remove the key", id)
		case e.key == nil:
			return nil, ErrNotFound
		}
		k, err := edit(*e.key)
		if err == nil && k.Hash != e.key.Hash {
			panic("BUG: a key was replaced by another")
		}
		return k, err
	})
	return after.key, err
}

// Remove takes a key out, as Store says, with errors like those of Add. Of a key
// that cannot be read it returns the ID only.
func (r *Redis) Remove(id auth.ID) (*auth.Key, error) {
	before, _, err := r.change(id, func(e entry) (*auth.Key, error) {
		if e.key == nil && e.fault == nil {
			return nil, ErrNotFound
		}
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	if before.fault != nil {
		return unreadable(id), nil
	}
	return before.key, nil
}

// change puts what edit makes of the store's entry in its place; nil deletes it. What
// it returns without an error a crash does not forget, if the disk lets it.
func (r *Redis) change(id auth.ID, edit func(entry) (*auth.Key, error)) (before, after entry, err error) {
	if before, after, err = r.exchange(id, edit); err == nil {
		r.syncChanges()
	}
	return before, after, err
}

// exchange begins with what the store has, and begins again when that has changed
// before it could be written.
func (r *Redis) exchange(id auth.ID, edit func(entry) (*auth.Key, error)) (before, after entry, err error) {
	epoch, err := r.ownEpoch()
	if err != nil {
		return entry{}, entry{}, err
	}
	read, tail := "", "" // to begin with: nothing has been read
	for ends := time.Now().Add(patience); time.Now().Before(ends); {
		r.mu.Lock()
		known := r.table.entries[id].revision // of a document that could not be read the store may have lost
		r.mu.Unlock()
		a, err := r.run(changeScript, epoch, id.String(), read, tail, strconv.FormatInt(known, 10))
		switch {
		case err != nil:
			return entry{}, entry{}, fmt.Errorf("cannot change the keys: %w", err)
		case a[0] == "epoch":
			return entry{}, entry{}, r.otherEpoch(epoch, a[1])
		case a[0] == "done":
			after.revision, err = strconv.ParseInt(a[1], 10, 64)
			r.took(id, after)
			return before, after, err
		}
		if before, err = r.current(id, a); errors.Is(err, errBehind) {
			continue
		} else if err != nil {
			return entry{}, entry{}, err
		}
		read = a[1]
		if after.key, tail, err = edited(id, before, edit); err != nil {
			return entry{}, entry{}, err
		}
		if tail == "" {
			return before, before, nil
		}
	}
	return entry{}, entry{}, fmt.Errorf("cannot change the keys: %w", errContention)
}

// edited is the key that edit makes, and its document's tail, which is "" when
// nothing changes.
func edited(id auth.ID, before entry, edit func(entry) (*auth.Key, error)) (*auth.Key, string, error) {
	k, err := edit(before)
	if err != nil {
		return nil, "", err
	}
	if k == nil {
		return nil, deletedTail(id), nil
	}
	_, k, err = readBack(k)
	if err != nil {
		return nil, "", err
	}
	k.Source = auth.InRedis
	tail, err := documentTail(k)
	if err != nil || before.key == nil {
		return k, tail, err
	}
	if was, err := documentTail(before.key); err == nil && was == tail {
		return before.key, "", nil
	}
	return k, tail, nil
}

var errBehind = errors.New("the store was behind this one")

// current is the entry that the store's answer shows; one that this store knows a
// later one of it puts back, and says so with errBehind.
func (r *Redis) current(id auth.ID, answer []string) (e entry, err error) {
	if answer[0] == "document" {
		e = parseDocument([]byte(answer[2]), id)
	}
	r.took(id, e)
	r.mu.Lock()
	known, epoch := r.table.entries[id], r.epoch
	r.mu.Unlock()
	if known.revision <= e.revision || known.fault != nil {
		return e, nil
	}
	if _, err := r.putBack(epoch, "put", []auth.ID{id}); err != nil {
		return e, fmt.Errorf("cannot change the keys: %w", err)
	}
	return e, errBehind
}

// took takes an entry over that Redis has shown or has just got.
func (r *Redis) took(id auth.ID, e entry) {
	if e == (entry{}) {
		return // there is no such document
	}
	r.update(func() { r.takeAll(map[auth.ID]entry{id: e}) })
	r.wake()
}

// takeAll takes over what the table lacks, when it is on the disk. It needs mu.
func (r *Redis) takeAll(found map[auth.ID]entry) {
	fresh := make(map[auth.ID]entry)
	for id, e := range found {
		if r.table.lacks(id, e) {
			fresh[id] = e
		}
	}
	r.keepChanges(fresh)
	for id, e := range fresh {
		r.take(id, e)
	}
}

// take needs mu.
func (r *Redis) take(id auth.ID, e entry) {
	if !r.table.take(id, e) {
		return
	}
	r.taken++
	if e.unread() {
		r.o.Log.Error("a key in the key store cannot be read, and is refused", "key_id", id.String(), "error", e.fault)
	}
}

// ownEpoch is that of the store that the table is of. A process that has found no
// store makes one when it has a key for it.
func (r *Redis) ownEpoch() (string, error) {
	r.mu.Lock()
	epoch, serving, unborn, foreign := r.epoch, r.serving, r.unborn, r.now.Foreign
	r.mu.Unlock()
	switch {
	case foreign:
		return "", r.errForeign()
	case serving:
		return epoch, nil
	case !unborn:
		return "", errNotLoaded
	}
	return r.foundOnce()
}

func (r *Redis) foundOnce() (string, error) {
	r.founding.Lock()
	defer r.founding.Unlock()
	if r.serving { // somebody else was first
		return r.epoch, nil
	}
	err := r.found(false)
	return r.epoch, err
}

// otherEpoch is why nothing was changed in a store that has another epoch than ours.
func (r *Redis) otherEpoch(ours, theirs string) error {
	if theirs == "" || theirs == ours+restoring {
		return errEmptied
	}
	return r.errForeign()
}

// errForeign says what to do. The epoch is no secret: it only tells stores apart.
func (r *Redis) errForeign() error {
	r.mu.Lock()
	epoch := r.epoch
	r.mu.Unlock()
	return fmt.Errorf("%[1]s holds the keys of another store: nothing of it was taken over, and nothing written. "+
		"If it is the wrong Redis, name the one of before in the configuration. "+
		"To keep the keys of this gateway and those that are there: redis-cli SET '%[2]s' %[3]s; then stop each gateway that says the same after it, remove its %[4]s and start it again. "+
		"To keep only those that are there: stop this gateway, remove %[5]s and start it again", r.o.Place, r.names[2], epoch, snapshotName, r.path())
}
