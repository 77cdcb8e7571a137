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
		if c.hasConfig() {
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
	for _, name := range []string{"serve", "check"} {
		var out, errs strings.Builder
		if code := run([]string{name, "-h"}, &out, &errs); code != 0 || errs.String() != usage() {
			t.Errorf("%s -h: exit code %d, %s", name, code, errs.String())
		}
	}
}
