package app

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must be left alone before it is read: an editor,
// or a ConfigMap's update, changes it in several steps.
const settle = 200 * time.Millisecond

// WatchFile calls changed after each change of the file, once it has settled,
// until ctx ends. Directories are watched rather than the file, so that one
// that is replaced, or removed and written anew, is still followed; so are
// symbolic links, such as those that a Kubernetes ConfigMap swaps.
func WatchFile(ctx context.Context, path string, log *slog.Logger, changed func()) error {
	return watchFiles(ctx, []string{path}, log, false, changed)
}

// watchFiles is WatchFile for files that change together: changed is called once
// all of them have settled; with gone also when none of them is there any more.
func watchFiles(ctx context.Context, paths []string, log *slog.Logger, gone bool, changed func()) error {
	fw, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	w := &watch{Watcher: fw, log: log, gone: gone}
	for _, path := range paths {
		path, err := filepath.Abs(path)
		if err != nil {
			fw.Close()
			return err
		}
		w.paths = append(w.paths, path)
	}
	w.follow()
	go w.run(ctx, changed)
	return nil
}

// watch follows files.
type watch struct {
	*fsnotify.Watcher
	paths []string
	names map[string]bool // a change of one may be a change of a file
	gone  bool            // that there is no file is a change too
	log   *slog.Logger
}

func (w *watch) run(ctx context.Context, changed func()) {
	defer w.Close()
	var timer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if w.names[e.Name] && !e.Has(fsnotify.Chmod) {
				timer = time.After(settle)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
			w.log.Warn("cannot watch files for changes; SIGHUP still works", "files", w.paths, "error", err)
		case <-timer:
			timer = nil
			if w.follow() || w.gone {
				changed()
			}
		}
	}
}

// follow watches the directories that the paths lead through now, and no others.
// It tells whether there is a file at the end of any.
func (w *watch) follow() (found bool) {
	var names []string
	watched := map[string]bool{}
	for grown := true; grown; { // a link may be swapped before its directory is watched
		grown, found, names = false, false, nil
		for _, path := range w.paths {
			way, there := trail(path)
			names, found = append(names, way...), found || there
		}
		for _, name := range names {
			dir := filepath.Dir(name)
			if watched[dir] {
				continue
			}
			watched[dir], grown = true, true
			if err := w.Add(dir); err != nil {
				w.log.Warn("cannot watch a directory for changes; SIGHUP still works", "files", w.paths, "directory", dir, "error", err)
			}
		}
	}
	w.names = map[string]bool{}
	for _, name := range names {
		w.names[name] = true
		w.names[filepath.Dir(name)] = true // it may itself be removed
	}
	for _, dir := range w.WatchList() {
		if !w.names[dir] {
			_ = w.Remove(dir) // it may be gone already
		}
	}
	return found
}

// trail follows an absolute path through its symbolic links. The names are
// those that decide where it leads: each link, and the file at the end or the
// first that is missing. found is false when there is nothing at the end.
func trail(path string) (names []string, found bool) {
	const mostLinks = 40 // as in path_resolution(7)
	at, rest := "/", strings.Split(path, "/")
	for len(rest) > 0 {
		name := filepath.Join(at, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(name)
		if err == nil && info.Mode()&fs.ModeSymlink == 0 {
			at = name
			continue
		}
		names = append(names, name)
		target, err := os.Readlink(name)
		if err != nil || len(names) > mostLinks {
			return names, false
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return append(names, at), true
}
