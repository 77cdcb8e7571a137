package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestSchemaIsPrinted(t *testing.T) {
	var out, errs strings.Builder
	if code := run([]string{"schema"}, &out, &errs); code != 0 || errs.Len() > 0 {
		t.Fatalf("exit code %d, %s", code, errs.String())
	}
	var schema struct {
		Schema     string         `json:"$schema"`
		Properties map[string]any `json:"properties"`
	}
	if err := json.Unmarshal([]byte(out.String()), &schema); err != nil || schema.Properties["backends"] == nil || !strings.Contains(schema.Schema, "2020-12") {
		t.Errorf("%v %+v", err, schema.Schema)
	}
}

func TestHalfAnAnswerIsAFailure(t *testing.T) {
	for _, args := range [][]string{{"schema"}, {"completion", "bash"}, {"help"}} {
		var errs strings.Builder
		if code := run(args, full{}, &errs); code != exitFailed || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%v on a full disk: exit code %d, %q", args, code, errs.String())
		}
	}
}

func TestCommandsThatAreMisused(t *testing.T) {
	for _, c := range []struct {
		name, args, want string
	}{
		{"a script for no shell", "completion", "completion needs the name of a shell"},
		{"an empty script for an unknown shell", "completion tcsh", "completion needs the name of a shell"},
		{"one of two shells is ignored", "completion bash zsh", "completion needs the name of a shell"},
		{"check of nothing", "check", "check needs -config file"},
		{"unknown command", "sevre", `unknown command "sevre"`},
		{"usage of nothing", "usage", "usage needs one of verify and export"},
		{"usage of an unknown kind", "usage exprot", "usage needs one of verify and export"},
		{"usage of nowhere", "usage verify", "usage needs -config file or -data dir"},
		{"usage of two places", "usage verify -config a -data b", "usage needs -config file or -data dir"},
		{"place without its flag", "usage verify /var/lib/llmproxy", `unexpected argument "/var/lib/llmproxy"`},
		{"a month is no day", "usage export -data a -from 2026-11", `invalid value "2026-11" for flag -from: write a day as in 2026-11-30`},
		{"an unknown column", "usage export -data a -by kye", `invalid value "kye" for flag -by: there is no column "kye"`},
		{"an unknown format", "usage export -data a -format xml", `invalid value "xml" for flag -format: write table, csv or json`},
		{"verify has no days", "usage verify -data a -from 2026-11-30", "flag provided but not defined: -from"},
		{"file without its flag", "serve a.yaml", `unexpected argument "a.yaml"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs strings.Builder
			code := run(strings.Fields(c.args), &out, &errs)
			if code != exitUsage || out.Len() > 0 || !strings.HasPrefix(errs.String(), c.want) || !strings.Contains(errs.String(), "Usage:") {
				t.Errorf("exit code %d, output %q, error\n%s", code, out.String(), errs.String())
			}
		})
	}
}

// A command that usage names must exist: usage, completion and run must agree.
func TestEveryCommandOfUsageRuns(t *testing.T) {
	for _, c := range commands() {
		if c.flags != nil {
			continue // these are asked for -h: serve would serve
		}
		words := c.words()
		if words == nil {
			words = []string{""}
		}
		for _, word := range words {
			var out, errs strings.Builder
			if code := run(append([]string{c.name}, strings.Fields(word)...), &out, &errs); code != 0 || out.Len() == 0 {
				t.Errorf("%s %s: exit code %d, %s", c.name, word, code, errs.String())
			}
		}
	}
	for line, want := range map[string]string{
		"serve -h": usage(), "check -h": usage(), "usage -h": usageHelp, "usage verify -h": usageHelp, "usage export -h": usageHelp,
		"keys -h": keysUsage(), "keys new -h": keysUsage(), "keys list -h": keysUsage(), "keys revoke -h": keysUsage(), "keys hash -h": keysUsage(),
	} {
		var out, errs strings.Builder
		if code := run(strings.Fields(line), &out, &errs); code != 0 || out.String()+errs.String() != want {
			t.Errorf("%s: exit code %d, %s%s", line, code, out.String(), errs.String())
		}
	}
}
