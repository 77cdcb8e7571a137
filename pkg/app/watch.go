package app

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must be left alone before it is read: an editor,
// or a ConfigMap's update, changes it in several steps.
const settle = 200 * time.Millisecond

// WatchFile calls changed after each change of the file, once it has settled,
// until ctx ends. The directory is watched rather than the file, so that one
// that is replaced, or removed and written anew, is still followed; so is a
// Kubernetes ConfigMap, whose files are links into a directory that is swapped.
func WatchFile(ctx context.Context, path string, log *slog.Logger, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if err := w.Add(filepath.Dir(path)); err != nil {
		w.Close()
		return err
	}
	go func() {
		defer w.Close()
		var timer <-chan time.Time
		name := filepath.Base(path)
		for {
			select {
			case <-ctx.Done():
				return
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				base := filepath.Base(e.Name)
				if (base == name || base == "..data") && !e.Has(fsnotify.Chmod) && !e.Has(fsnotify.Remove) {
					timer = time.After(settle)
				}
			case err, ok := <-w.Errors:
				if !ok {
					return
				}
				log.Warn("cannot watch the configuration file; SIGHUP still works", "error", err)
			case <-timer:
				timer = nil
				changed()
			}
		}
	}()
	return nil
}
