package scripts_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCommandsOfTheDocs runs every block of README.md and docs/ whose language
// is sh as a new user would: in a fresh copy of the repository, in the order of
// the page, with the programs in PATH. A text block right behind it is what it
// prints: "..." stands for anything in a line, and alone for any lines.
//
// The last command of a block goes on while the next ones run when it is a
// server. Each page has a network of its own, where the system lets us make
// one; elsewhere the ports that it names have to be free.
func TestCommandsOfTheDocs(t *testing.T) {
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	isolated := exec.Command(isolation[0], append(isolation[1:], "ip", "link", "set", "lo", "up")...).Run() == nil
	for _, p := range pages(t) {
		if strings.Contains(p.text, "```sh\n") {
			t.Run(p.path, func(t *testing.T) {
				if isolated {
					t.Parallel()
				}
				p.run(t, bin, isolated)
			})
		}
	}
}

// isolation gives a command a network of its own, and ends with it all that it
// started.
var isolation = []string{"unshare", "-rnpf", "--kill-child", "--mount-proc"}

func (p page) run(t *testing.T, bin string, isolated bool) {
	s := startShell(t, bin, isolated)
	for i, b := range p.blocks {
		if b.lang != "sh" {
			continue
		}
		want := ""
		if i+1 < len(p.blocks) && p.blocks[i+1].lang == "text" && p.blocks[i+1].behind {
			want = p.blocks[i+1].text
		}
		if err := s.do(b.text, want); err != nil {
			if errors.Is(err, errNotInstalled) && os.Getenv("LLMPROXY_REQUIRE") == "" {
				t.Skipf("%s:%d: %v", p.path, b.line, err)
			}
			t.Fatalf("%s:%d: %v", p.path, b.line, err)
		}
	}
}

// shell is a bash in a copy of the repository.
type shell struct {
	in      io.Writer
	results *bufio.Scanner // the exit code of each block
	out     string         // where the blocks' output is
	n       int            // of blocks
}

func startShell(t *testing.T, bin string, isolated bool) *shell {
	t.Helper()
	dir := t.TempDir()
	if err := copyTree(dir); err != nil {
		t.Fatal(err)
	}
	args := []string{"bash"}
	if isolated {
		args = append(isolation, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	late := time.AfterFunc(time.Minute, end)
	t.Cleanup(func() {
		late.Stop()
		end()
		_ = cmd.Wait() // it was killed
	})
	if isolated {
		fmt.Fprintln(in, "ip link set lo up")
	}
	return &shell{in: in, results: bufio.NewScanner(out), out: t.TempDir()}
}

// server is a command that does not end by itself.
var server = regexp.MustCompile(`(?m)^((?:\w+=\S+ )*(?:bin/)?(?:llmproxy serve|mockvllm|receiver)\b[^&\n]*?) *&?$`)

// serving is what each of them says when clients may come.
var serving = regexp.MustCompile(`\bready: |msg"?[:=]"?serving`)

var errNotInstalled = errors.New("a program is not installed")

// do runs a block, until its output is the one wanted.
func (s *shell) do(script, want string) error {
	s.n++
	file := filepath.Join(s.out, fmt.Sprint(s.n))
	servers := len(server.FindAllString(script, -1))
	script = server.ReplaceAllString(script, "$1 &")
	fmt.Fprintf(s.in, "( set -eo pipefail\n%s\n) </dev/null >%s 2>&1; echo $?\n", script, file)
	if !s.results.Scan() {
		return fmt.Errorf("the shell has ended:\n%s", script)
	}
	code := s.results.Text()
	expected := pattern(want)
	for deadline := time.Now().Add(10 * time.Second); ; {
		out, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		switch ready := len(serving.FindAll(out, -1)) >= servers; {
		case code == "127":
			return fmt.Errorf("%w:\n%s%s", errNotInstalled, script, out)
		case code != "0":
			return fmt.Errorf("exit code %s:\n%s%s", code, script, out)
		case ready && (want == "" || expected.MatchString(string(out)+"\n")):
			return nil
		case servers == 0 || time.Now().After(deadline):
			return fmt.Errorf("%s prints\n%s\nnot\n%s", script, out, want)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// pattern is what output must match.
func pattern(want string) *regexp.Regexp {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(want), "\n") {
		if line == "..." {
			b.WriteString(`(.*\n)*`)
			continue
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, ".*") + `[ \t]*\n`)
	}
	return regexp.MustCompile(`^\s*` + b.String() + `\s*$`)
}

// copyTree copies what a checkout has, but for what only tests need.
func copyTree(dir string) error {
	left := []string{".git", "bench", "bin", "dist", "node_modules", "testdata"}
	return filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(dir, strings.TrimPrefix(path, ".."))
		switch {
		case d.IsDir() && slices.Contains(left, d.Name()):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case !d.Type().IsRegular() || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, info.Mode().Perm())
	})
}
