package main

import (
	"fmt"
	"strings"
)

// completion is the script that completes the commands in the shell that args
// name, false if there is none.
func completion(args []string) (string, bool) {
	if len(args) != 1 {
		return "", false
	}
	switch args[0] {
	case "bash":
		return bashCompletion(), true
	case "zsh":
		return zshCompletion(), true
	case "fish":
		return fishCompletion(), true
	}
	return "", false
}

// words are what must follow, nil for no words.
func (c command) words() []string {
	if !strings.Contains(c.args, "|") {
		return nil
	}
	return strings.Split(c.args, "|")
}

// bashCompletion leaves the names of files to readline, which quotes them; it
// has nothing that the bash 3.2 of macOS lacks.
func bashCompletion() string {
	var names []string
	var cases strings.Builder
	for _, c := range commands() {
		names = append(names, c.name)
		next := c.words()
		for _, f := range c.flags {
			next = append(next, "-"+f.name)
		}
		if next != nil {
			fmt.Fprintf(&cases, "    %s) next='%s' ;;\n", c.name, strings.Join(next, " "))
		}
	}
	return `# source <(llmproxy completion bash)
_llmproxy() {
  local next=
  case ${COMP_WORDS[COMP_CWORD-1]} in
    -* | =) return ;;
  esac
  case ${COMP_WORDS[1]} in
` + cases.String() + `  esac
  [ "$COMP_CWORD" -gt 1 ] || next='` + strings.Join(names, " ") + `'
  COMPREPLY=($(compgen -W "$next" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _llmproxy llmproxy
`
}

func zshCompletion() string {
	var names, cases strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&names, "    '%s:%s'\n", c.name, c.does)
		words, flags := c.words(), ""
		for _, f := range c.flags {
			flags += fmt.Sprintf(" '-%s[%s]%s'", f.name, f.does, []string{aText: ":value:", aFile: ":value:_files", nothing: ""}[f.value])
		}
		if words != nil {
			flags += " '1:what:(" + strings.Join(words, " ") + ")'"
		}
		if flags != "" {
			fmt.Fprintf(&cases, "    %s) _arguments%s ;;\n", c.name, flags)
		}
	}
	return `#compdef llmproxy
# source <(llmproxy completion zsh), or save it as _llmproxy in a directory of $fpath
_llmproxy() {
  local -a names=(
` + names.String() + `  )
  if (( CURRENT == 2 )); then
    _describe command names
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
` + cases.String() + `  esac
}
if [[ $funcstack[1] == _llmproxy ]]; then
  _llmproxy "$@"
else
  compdef _llmproxy llmproxy
fi
`
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString("# llmproxy completion fish | source\ncomplete -c llmproxy -f\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "complete -c llmproxy -n __fish_use_subcommand -a %s -d '%s'\n", c.name, c.does)
		for _, f := range c.flags {
			values := []string{aText: "-x", aFile: "-rF", nothing: ""}[f.value]
			fmt.Fprintf(&b, "complete -c llmproxy -n '__fish_seen_subcommand_from %s' -o %s %s -d '%s'\n", c.name, f.name, values, f.does)
		}
		if words := c.words(); words != nil {
			fmt.Fprintf(&b, "complete -c llmproxy -n '__fish_seen_subcommand_from %s' -a '%s'\n", c.name, strings.Join(words, " "))
		}
	}
	return b.String()
}
