package keystore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

// noon is when these tests are.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return noon }

func open(t testing.TB, dir string) *keystore.File {
	t.Helper()
	s, err := keystore.OpenFile(dir, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// key is the key that secret stands for.
func key(secret, name string) *auth.Key {
	return &auth.Key{Hash: auth.Hash(secret), Last4: secret[len(secret)-4:], Name: name}
}

func add(t testing.TB, s keystore.Store, k *auth.Key) {
	t.Helper()
	if err := s.Add(k); err != nil {
		t.Fatal(err)
	}
}

// names are the names of the store's keys, in order.
func names(s keystore.Store) string {
	var out []string
	for _, k := range s.Keys() {
		out = append(out, k.Name)
	}
	return strings.Join(out, " ")
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// write writes a file in place, as some editors do, at a time of its own.
func write(t testing.TB, path, text string, at time.Time) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// reload fails the test unless Reload tells what is wanted of changed.
func reload(t testing.TB, s *keystore.File, want bool) {
	t.Helper()
	if changed, err := s.Reload(); err != nil || changed != want {
		t.Fatalf("changed %t, want %t; %v", changed, want, err)
	}
}

// refused reloads a file that must be refused, and returns why.
func refused(t testing.TB, s *keystore.File) string {
	t.Helper()
	before := names(s)
	changed, err := s.Reload()
	if err == nil || changed || names(s) != before {
		t.Fatalf("changed %t, %v, keys %q and before %q", changed, err, names(s), before)
	}
	return err.Error()
}

func TestFileIsAsAPersonWouldWriteIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, dir)
	if len(s.Keys()) != 0 {
		t.Fatalf("keys of no file: %v", s.Keys())
	}
	spec, err := keystore.ParseSpec([]byte(`{"name": "客户A <&>", "user_id": "customer_a", "total_quota": 10000000,
		"quota_reset_period": "monthly", "allowed_models": ["llama-3-70b"], "allowed_ips": ["10.0.1.0/24", "2001:db8::7"],
		"expires_at": "2026-12-31T23:59:59+08:00", "metadata": {"tier": ["gold", 1.50]}, "requests_per_second": 5}`))
	if err != nil {
		t.Fatal(err)
	}
	k, err := spec.Apply(*key("sk-llmproxy-dev-team-001", ""))
	if err != nil {
		t.Fatal(err)
	}
	add(t, s, k)
	add(t, s, key("sk-second", ""))
	want := `{
  "version": 1,
  "keys": [
    {
      "key_hash": "sha256:3abfd31e0ff1d9f06fb3e4a8b56c9a30c0eca85bd41e1e64c55a42d6edc5c8ff",
      "last4": "-001",
      "name": "客户A <&>",
      "user_id": "customer_a",
      "status": "active",
      "total_quota": 10000000,
      "quota_reset_period": "monthly",
      "allowed_models": [
        "llama-3-70b"
      ],
      "allowed_ips": [
        "10.0.1.0/24",
        "2001:db8::7"
      ],
      "expires_at": "2026-12-31T15:59:59Z",
      "metadata": {
        "tier": [
          "gold",
          1.50
        ]
      },
      "requests_per_second": 5,
      "created_at": "2026-11-23T12:00:00Z"
    },
    {
      "key_hash": "sha256:a",
      "last4": "cond",
      "status": "active",
      "created_at": "2026-11-23T12:00:00Z"
    }
  ]
}
`
	want = strings.Replace(want, "3abfd31e0ff1d9f06fb3e4a8b56c9a30c0eca85bd41e1e64c55a42d6edc5c8ff", fmt.Sprintf("%x", auth.Hash("sk-llmproxy-dev-team-001")), 1)
	want = strings.Replace(want, "sha256:a", fmt.Sprintf("sha256:%x", auth.Hash("sk-second")), 1)
	if got := read(t, s.Path()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, name := range []string{"keys.json", "keys.lock"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: mode %v, %v", info.Mode(), err)
	}
	got := *open(t, dir).Keys()[0]
	if got.Metadata != `{"tier":["gold",1.50]}` || got.Expires.Time() != time.Date(2026, 12, 31, 15, 59, 59, 0, time.UTC) || got.Source != auth.Stored ||
		got.Created.Time() != noon || got.Limits.RequestsPerSecond != 5 || len(got.Addresses) != 2 || got.Period.String() != "monthly" {
		t.Errorf("read back: %+v", got)
	}
}

func TestChanges(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a, b, c := key("sk-a-key", "a"), key("sk-b-key", "b"), key("sk-c-key", "c")
	for _, k := range []*auth.Key{a, b, c} {
		add(t, s, k)
	}
	if err := s.Add(key("sk-b-key", "again")); err == nil || !strings.Contains(err.Error(), "has this key already") {
		t.Errorf("a key twice: %v", err)
	}
	if err := s.Add(&auth.Key{Hash: auth.Hash("x"), Name: "a\nb"}); err == nil || !strings.HasPrefix(err.Error(), "name: ") {
		t.Errorf("a key that could not be read back: %v", err)
	}
	disable := func(k auth.Key) (*auth.Key, error) {
		k.Disabled = true
		return &k, nil
	}
	if k, err := s.Replace(b.ID(), disable); err != nil || !k.Disabled || !s.Keys()[1].Disabled {
		t.Errorf("disabled: %+v, %v", k, err)
	}
	no := errors.New("no")
	if k, err := s.Replace(b.ID(), func(auth.Key) (*auth.Key, error) { return nil, no }); k != nil || !errors.Is(err, no) {
		t.Errorf("an edit that fails: %+v, %v", k, err)
	}
	absent := key("sk-absent", "").ID()
	if _, err := s.Replace(absent, disable); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("replace of no key: %v", err)
	}
	if k, err := s.Remove(absent); k != nil || !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("remove of no key: %+v, %v", k, err)
	}
	// The one in the middle, the last, the first, and the only one.
	for _, step := range []struct {
		remove *auth.Key
		left   string
	}{{b, "a c"}, {c, "a"}} {
		if k, err := s.Remove(step.remove.ID()); err != nil || k.Name != step.remove.Name || names(s) != step.left || names(open(t, dir)) != step.left {
			t.Errorf("%+v, %v: %s is left, and %s in the file", k, err, names(s), names(open(t, dir)))
		}
	}
	add(t, s, b)
	for _, step := range []struct {
		remove *auth.Key
		left   string
	}{{a, "b"}, {b, ""}} {
		if _, err := s.Remove(step.remove.ID()); err != nil || names(s) != step.left || names(open(t, dir)) != step.left {
			t.Errorf("%v: %s is left, and %s in the file", err, names(s), names(open(t, dir)))
		}
	}
	if got, want := read(t, s.Path()), "{\n  \"version\": 1,\n  \"keys\": []\n}\n"; got != want {
		t.Errorf("an empty file is\n%s", got)
	}
}

// A revocation that is repeated must not wake every watcher.
func TestChangeOfNothingWritesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	k := key("sk-a-key", "a")
	add(t, s, k)
	before, err := os.Stat(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, disabled := range []bool{false, true} {
		if _, err := s.Replace(k.ID(), func(k auth.Key) (*auth.Key, error) {
			k.Disabled = disabled
			return &k, nil
		}); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(s.Path()); err != nil || os.SameFile(before, after) == disabled {
			t.Errorf("disabled %t: written %t, %v", disabled, !os.SameFile(before, after), err)
		}
	}
}

// Each list of its own would cost more than the rest of the key.
func TestWhatKeysSayAlikeIsKeptOnce(t *testing.T) {
	const most = 300 // bytes a key, of which about 70 are its name and user
	const n = 20_000
	s := open(t, t.TempDir())
	writeMany(t, s.Path(), n)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	reload(t, s, true)
	each := (heap() - before) / n
	t.Log(each, "bytes a key")
	keys := s.Keys()
	if each > most || len(keys) != n {
		t.Errorf("%d keys of %d bytes, want at most %d", len(keys), each, most)
	}
	if &keys[0].Models[0] != &keys[n-1].Models[0] || &keys[0].Addresses[0] != &keys[n-1].Addresses[0] || keys[0].Limits != keys[n-5].Limits || keys[0].Limits == keys[1].Limits {
		t.Error("equal lists and limits are kept more than once, or others as if they were equal")
	}
}

func TestLinks(t *testing.T) {
	real, dir := t.TempDir(), t.TempDir()
	file := filepath.Join(real, "the-keys.json")
	if err := os.Symlink(file, filepath.Join(dir, "keys.json")); err != nil {
		t.Fatal(err)
	}
	// A volume that is not mounted yet must not pass for a gateway without keys.
	if _, err := keystore.OpenFile(dir, clock); err == nil || !strings.Contains(err.Error(), "symbolic link to nothing") {
		t.Errorf("of a link to nothing: %v", err)
	}
	write(t, file, `{"version": 1, "keys": []}`, noon)
	s := open(t, dir)
	add(t, s, key("sk-a-key", "a"))
	if info, err := os.Lstat(s.Path()); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info.Mode(), err)
	}
	if !strings.Contains(read(t, file), `"name": "a"`) {
		t.Error("the file behind the link has not changed")
	}
	if _, err := os.Stat(filepath.Join(real, "keys.lock")); err != nil {
		t.Errorf("who comes by another way would not meet this lock: %v", err)
	}
	// As Kubernetes swaps what a link leads to.
	other := filepath.Join(real, "other.json")
	write(t, other, strings.Replace(read(t, file), `"a"`, `"b"`, 1), noon)
	if err := errors.Join(os.Symlink(other, filepath.Join(dir, "new")), os.Rename(filepath.Join(dir, "new"), s.Path())); err != nil {
		t.Fatal(err)
	}
	reload(t, s, true)
	if names(s) != "b" {
		t.Errorf("keys: %s", names(s))
	}
}

func TestWhatIsNoFile(t *testing.T) {
	s := open(t, t.TempDir())
	if err := os.Mkdir(s.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := refused(t, s); !strings.Contains(got, "it must be a file") {
		t.Error(got)
	}
}

func TestManyAddAtOnce(t *testing.T) {
	dir := t.TempDir()
	stores := []*keystore.File{open(t, dir), open(t, dir)}
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			if err := stores[n%2].Add(key(fmt.Sprintf("sk-%04d", n), "x")); err != nil {
				t.Error(err)
			}
			_, _ = stores[n%2].Reload()
		})
	}
	all.Wait()
	for _, s := range append(stores, open(t, dir)) {
		if _, err := s.Reload(); err != nil || len(s.Keys()) != 50 {
			t.Errorf("%d keys, %v", len(s.Keys()), err)
		}
	}
}

// A key that root makes from a shell must be for the gateway to read.
func TestOwnerStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 4712); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	add(t, s, key("sk-a-key", "a"))
	belongs(t, dir, "keys.json", 4711, 4712)
	belongs(t, dir, "keys.lock", 4711, 4712)
	if err := os.Chown(s.Path(), 4713, 4714); err != nil {
		t.Fatal(err)
	}
	add(t, s, key("sk-b-key", "b"))
	belongs(t, dir, "keys.json", 4713, 4714)
}

func belongs(t *testing.T, dir, name string, uid, gid uint32) {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != uid || stat.Gid != gid {
		t.Errorf("%s belongs to %d:%d, want %d:%d", name, stat.Uid, stat.Gid, uid, gid)
	}
}
