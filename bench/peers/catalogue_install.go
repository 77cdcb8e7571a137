package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// debian installs Debian's packages of the same names as programs that are not
// there yet. Their paths are whole: /usr/sbin is not in everybody's PATH.
func debian(programs ...string) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error {
		var missing []string
		for _, p := range programs {
			if _, err := os.Stat(p); err != nil {
				missing = append(missing, filepath.Base(p))
			}
		}
		if len(missing) == 0 {
			return nil
		}
		apt := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"}
		if os.Getuid() != 0 {
			apt = append([]string{"sudo", "-n"}, apt...) // -n: nobody is there to type a password
		}
		if err := command(ctx, dir, append(apt, "update")...); err != nil {
			return err
		}
		return command(ctx, dir, append(append(apt, "install", "-y", "--no-install-recommends"), missing...)...)
	}
}

// pypi installs one of PyPI's packages into an environment of its own. want is a
// line of a requirements file.
func pypi(want string) func(context.Context, string) error {
	return once(want, func(ctx context.Context, dir string) error {
		venv, list := filepath.Join(dir, "venv"), filepath.Join(dir, "requirements.txt")
		if err := os.WriteFile(list, []byte(want+"\n"), 0o644); err != nil {
			return err
		}
		if err := command(ctx, dir, "python3", "-m", "venv", venv); err != nil {
			return err
		}
		return command(ctx, dir, filepath.Join(venv, "bin/pip"), "install", "--disable-pip-version-check", "-q", "-r", list)
	})
}

// npm installs what a package.json among the configs names. Install scripts are
// left out: npm asks a person before it runs one.
func npm(list string) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error {
		text, err := configs.ReadFile("configs/" + list)
		if err != nil {
			return err
		}
		return once(string(text), func(ctx context.Context, dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "package.json"), text, 0o644); err != nil {
				return err
			}
			return command(ctx, dir, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
		})(ctx, dir)
	}
}

// goInstall compiles a program of the Go module proxy.
func goInstall(path, version string) func(context.Context, string) error {
	want := path + "@" + version
	return once(want, func(ctx context.Context, dir string) error {
		return command(ctx, dir, "env", "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0", "go", "install", want)
	})
}

// build compiles a program of this repository; the compiler knows whether it
// has to.
func build(path string) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error {
		return command(ctx, "", "go", "build", "-o", dir+"/", path)
	}
}

// absent is a peer that cannot be had, listed so that the tables say why.
func absent(name, reason string) peer {
	err := errors.New(reason)
	return peer{
		name:    name,
		install: func(context.Context, string) error { return err },
		start:   func(_, _, _ string) (*exec.Cmd, error) { return nil, err },
	}
}

// mark is the file that names what is installed beside it.
const mark = "installed"

// once installs what is wanted into an empty directory, unless that is what is
// there. The directory is absolute from here on.
func once(want string, install func(context.Context, string) error) func(context.Context, string) error {
	return func(ctx context.Context, dir string) error {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		there := filepath.Join(dir, mark)
		if had, err := os.ReadFile(there); err == nil && string(had) == want {
			return nil
		}
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			return err // what is left of another version would be mixed in
		}
		if err := install(ctx, dir); err != nil {
			return err
		}
		return os.WriteFile(there, []byte(want), 0o644)
	}
}

// command runs one in a directory, "" for ours. Its error is what the command
// complained of.
func command(ctx context.Context, dir string, line ...string) error {
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w", complaint(line[0], string(out)), err)
}

// complaint finds the line of a failed command's output that says why: npm's
// code, else the last line that is no detail of another. name stands for silence.
func complaint(name, out string) string {
	if code := regexp.MustCompile(`(?m)^npm error code .*`).FindString(out); code != "" {
		return code
	}
	for line := range strings.SplitSeq(out, "\n") {
		if line != "" && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
			name = line
		}
	}
	return name
}

// marked returns the version in what once has installed.
func marked(_ context.Context, dir string) (string, error) {
	want, err := os.ReadFile(filepath.Join(dir, mark))
	if err != nil {
		return "", err
	}
	return string(regexp.MustCompile(`\d+(\.\d+)+`).Find(want)), nil
}

// ofGo returns the version of the standard library.
func ofGo(context.Context, string) (string, error) {
	return strings.TrimPrefix(runtime.Version(), "go"), nil
}

// says returns what a pattern's group finds in what a program prints.
func says(pattern, name string, args ...string) func(context.Context, string) (string, error) {
	return func(ctx context.Context, _ string) (string, error) {
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("cannot run %s: %w", name, err)
		}
		if found := regexp.MustCompile(pattern).FindSubmatch(out); found != nil {
			return string(found[1]), nil
		}
		return "", fmt.Errorf("cannot find %s in: %s", pattern, complaint(name, string(out)))
	}
}
