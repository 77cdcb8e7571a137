package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script is the completion of a shell in a file.
func script(t *testing.T, shell string) string {
	t.Helper()
	var out, errs strings.Builder
	if code := run([]string{"completion", shell}, &out, &errs); code != 0 {
		t.Fatal(errs.String())
	}
	file := filepath.Join(t.TempDir(), "llmproxy."+shell)
	if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// says runs a shell with args and returns its output; a shell that complains
// fails the test, one that is not installed skips it.
func says(t *testing.T, shell string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil && shell != "bash" {
		t.Skip(shell, "is not installed")
	}
	c := exec.CommandContext(t.Context(), shell, args...)
	c.Env = append(os.Environ(), "HOME="+t.TempDir())
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%s: %v\n%s", shell, err, errs.String())
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

func TestBashCompletes(t *testing.T) {
	file := script(t, "bash")
	for _, c := range []struct{ name, line, want string }{
		{"every command", "llmproxy|", "serve check usage keys schema completion version help"},
		{"a beginning", "llmproxy|c", "check completion"},
		{"nothing fits", "llmproxy|x", ""},
		{"flag", "llmproxy|check|", "-config"},
		{"beginning of a flag", "llmproxy|serve|-c", "-config"},
		{"the flag again for its file", "llmproxy|check|-config|", ""},
		{"the flag again for its file, after =", "llmproxy|check|-config|=|", ""},
		{"shells", "llmproxy|completion|", "bash zsh fish"},
		{"words and flags", "llmproxy|usage|", "verify export -config -data -from -to -by -format"},
		{"flags after a word", "llmproxy|usage|export|-f", "-from -format"},
		{"flags as the value of one", "llmproxy|usage|export|-from|", ""},
		{"flags of a new key", "llmproxy|keys|new|-r", "-rps -rpm"},
		{"commands after a command", "llmproxy|version|", ""},
		{"a command by the name of another", "llmproxy|-config|", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			words := "('" + strings.ReplaceAll(c.line, "|", "' '") + "')"
			got := says(t, "bash", "--norc", "-c", `source "$1"; COMP_WORDS=`+words+`
				COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _llmproxy llmproxy; echo "${COMPREPLY[@]}"`, "bash", file)
			if got != c.want {
				t.Errorf("%s: %q, want %q", c.line, got, c.want)
			}
		})
	}
	// Where the function knows nothing, readline takes the names of files.
	if got := says(t, "bash", "--norc", "-ec", `source "$1"; complete -p llmproxy`, "bash", file); got != "complete -o default -F _llmproxy llmproxy" {
		t.Errorf("bash says %q", got)
	}
}

func TestZshLoadsTheCompletion(t *testing.T) {
	file := script(t, "zsh")
	says(t, "zsh", "-fn", file)
	got := says(t, "zsh", "-fc", `autoload -Uz compinit && compinit -D -u && source "$1" && print $_comps[llmproxy]`, "zsh", file)
	if got != "_llmproxy" {
		t.Errorf("zsh completes llmproxy with %q", got)
	}
}

func TestFishCompletes(t *testing.T) {
	file := script(t, "fish")
	for line, want := range map[string]string{
		"llmproxy c":           "check say whether the file is right, and what it means completion print what completes these commands in a shell",
		"llmproxy completion ": "bash fish zsh",
		"llmproxy check -":     "-config configuration file",
		"llmproxy usage e":     "export",
		"llmproxy keys re":     "revoke",
		"llmproxy keys -del":   "-delete take the key out of the file",
		"llmproxy usage -f":    "-format table, csv or json -from first day",
	} {
		if got := says(t, "fish", "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, file, line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
