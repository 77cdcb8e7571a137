package app_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// link makes name a symbolic link to target, in place of one that is there.
func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name+".new"); err != nil {
		t.Fatal(err)
	}
	rename(t, name+".new", name)
}

func makeDir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// watched is a file that is watched, and what was in it after the last change.
type watched struct {
	content atomic.Value
	logs    apptest.Log
}

func watchFile(t *testing.T, path string) *watched {
	t.Helper()
	w := &watched{}
	w.content.Store("")
	err := app.WatchFile(t.Context(), path, slog.New(slog.NewTextHandler(&w.logs, nil)), func() {
		b, err := os.ReadFile(path)
		if err != nil {
			b = []byte(err.Error())
		}
		w.content.Store(string(b))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if said := w.logs.String(); said != "" {
			t.Errorf("it warned:\n%s", said)
		}
	})
	return w
}

func (w *watched) reads(t *testing.T, want string) {
	t.Helper()
	apptest.Eventually(t, "the change to "+want+" is seen", func() bool { return w.content.Load() == want })
}

// TestWatchFollowsLinks: wherever on the way to the file something changes, the
// change is seen, and so is the next one.
func TestWatchFollowsLinks(t *testing.T) {
	for _, c := range []struct {
		name, path string
		prepare    func(t *testing.T)
		changes    []func(t *testing.T, content string)
	}{
		{
			"a target elsewhere is edited in place", "etc/f.yaml",
			func(t *testing.T) { writeFile(t, "srv/f.yaml", "0"); link(t, "../srv/f.yaml", "etc/f.yaml") },
			[]func(*testing.T, string){inPlace("srv/f.yaml"), inPlace("srv/f.yaml")},
		},
		{
			"a target elsewhere is replaced", "etc/f.yaml",
			func(t *testing.T) { writeFile(t, "srv/g.yaml", "0"); link(t, "../srv/g.yaml", "etc/f.yaml") },
			[]func(*testing.T, string){renamed("srv/g.yaml"), inPlace("srv/g.yaml"), renamed("srv/g.yaml")},
		},
		{
			"the link is led to another directory", "etc/f.yaml",
			func(t *testing.T) { writeFile(t, "srv/f.yaml", "0"); link(t, "../srv/f.yaml", "etc/f.yaml") },
			[]func(*testing.T, string){relinked("opt/f.yaml", "etc/f.yaml"), inPlace("opt/f.yaml"), renamed("opt/f.yaml"), inPlace("etc/f.yaml")},
		},
		{
			"a link to a link", "etc/f.yaml",
			func(t *testing.T) {
				writeFile(t, "srv/f.yaml", "0")
				link(t, "../srv/f.yaml", "opt/f.yaml")
				link(t, "../opt/f.yaml", "etc/f.yaml")
			},
			[]func(*testing.T, string){inPlace("srv/f.yaml"), relinked("etc/g.yaml", "opt/f.yaml"), inPlace("etc/g.yaml")},
		},
		{
			"a directory on the way is a link", "current/f.yaml",
			func(t *testing.T) { writeFile(t, "srv/f.yaml", "0"); link(t, "srv", "current") },
			[]func(*testing.T, string){
				inPlace("srv/f.yaml"),
				func(t *testing.T, content string) { writeFile(t, "opt/f.yaml", content); link(t, "opt", "current") },
				inPlace("opt/f.yaml"),
			},
		},
		{
			"a link from elsewhere into a ConfigMap", "etc/f.yaml",
			func(t *testing.T) {
				makeDir(t, "srv/..1")
				writeFile(t, "srv/..1/f.yaml", "0")
				link(t, "..1", "srv/..data")
				link(t, "..data/f.yaml", "srv/f.yaml")
				link(t, "../srv/f.yaml", "etc/f.yaml")
			},
			[]func(*testing.T, string){swapped("..1", "..2"), swapped("..2", "..3")},
		},
		{
			"the directory is replaced", "etc/f.yaml",
			func(t *testing.T) { writeFile(t, "etc/f.yaml", "0") },
			[]func(*testing.T, string){
				func(t *testing.T, content string) {
					rename(t, "etc", "old")
					makeDir(t, "etc")
					writeFile(t, "etc/f.yaml", content)
				},
				inPlace("etc/f.yaml"),
			},
		},
		{
			"the target's directory is replaced", "etc/f.yaml",
			func(t *testing.T) { writeFile(t, "srv/f.yaml", "0"); link(t, "../srv/f.yaml", "etc/f.yaml") },
			[]func(*testing.T, string){
				func(t *testing.T, content string) {
					rename(t, "srv", "old")
					makeDir(t, "srv")
					writeFile(t, "srv/f.yaml", content)
				},
				inPlace("srv/f.yaml"),
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, dir := range []string{"etc", "srv", "opt"} {
				makeDir(t, dir)
			}
			c.prepare(t)
			w := watchFile(t, c.path)
			for i, change := range c.changes {
				content := strings.Repeat("x", i+1)
				change(t, content)
				w.reads(t, content)
			}
		})
	}
}

func inPlace(path string) func(*testing.T, string) {
	return func(t *testing.T, content string) { writeFile(t, path, content) }
}

func renamed(path string) func(*testing.T, string) {
	return func(t *testing.T, content string) {
		writeFile(t, path+".new", content)
		rename(t, path+".new", path)
	}
}

// relinked leads the link to target, a new file.
func relinked(target, name string) func(*testing.T, string) {
	return func(t *testing.T, content string) {
		writeFile(t, target, content)
		link(t, "../"+target, name)
	}
}

// swapped is what Kubernetes does in a volume of a ConfigMap.
func swapped(from, to string) func(*testing.T, string) {
	return func(t *testing.T, content string) {
		makeDir(t, "srv/"+to)
		writeFile(t, "srv/"+to+"/f.yaml", content)
		link(t, to, "srv/..data")
		if err := os.RemoveAll("srv/" + from); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatchDropsWhatIsLeft: a directory that the path does not lead through any
// more, and that stays, is not watched for ever.
func TestWatchDropsWhatIsLeft(t *testing.T) {
	if _, err := os.Stat("/proc/self/fdinfo"); err != nil {
		t.Skip("the watches are counted in /proc")
	}
	before := inotifyWatches(t)
	t.Chdir(t.TempDir())
	makeDir(t, "0")
	writeFile(t, "0/f.yaml", "0")
	link(t, "0", "current")
	w := watchFile(t, "current/f.yaml")
	for i := range 5 {
		release := strings.Repeat("x", i+1)
		makeDir(t, release)
		writeFile(t, release+"/f.yaml", release)
		link(t, release, "current")
		w.reads(t, release)
	}
	if n := inotifyWatches(t) - before; n != 2 {
		t.Errorf("%d watches, want the link's directory and the release's", n)
	}
}

// inotifyWatches counts those of this process.
func inotifyWatches(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := os.ReadFile(f); err == nil { // one may be closed meanwhile
			n += strings.Count(string(info), "inotify wd:")
		}
	}
	return n
}
