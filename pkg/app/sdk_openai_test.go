package app_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// openaiCases are those of OpenAI's own libraries, each of which has all.
var openaiCases = slices.Concat(openaiChats, openaiResponses, openaiAudio, openaiErrors)

// A user of an official library cannot tell the gateway from the engine, but
// where the table says so.

func TestOpenAIGo(t *testing.T) {
	program := filepath.Join(binaries, "sdk-go")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("testdata", "sdk-go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the suite: %v\n%s", err, out)
	}
	s := sdkSuite{dir: "sdk-go", command: []string{program}, cases: openaiCases}
	s.run(t)
}

func TestOpenAINode(t *testing.T) {
	s := sdkSuite{dir: nodeDir, command: nodeSuite(t, "openai"), here: true, cases: openaiCases, class: errorClass}
	s.run(t)
}

func TestOpenAIPython(t *testing.T) {
	s := sdkSuite{dir: pythonDir, command: pythonSuite(t, "openai"), cases: openaiCases, class: errorClass}
	s.run(t)
}

const (
	nodeDir   = "sdk-node"
	pythonDir = "sdk-python"
)

// nodeSuite is the command of a suite in testdata/sdk-node.
func nodeSuite(t *testing.T, name string) []string {
	t.Helper()
	need(t, "node", "node is not installed")
	need(t, filepath.Join("testdata", nodeDir, "node_modules", "openai"), "the packages of testdata/sdk-node are not installed: make deps")
	return []string{"node", name + ".mjs"}
}

// pythonSuite is the command of a suite in testdata/sdk-python.
func pythonSuite(t *testing.T, name string) []string {
	t.Helper()
	interpreter, err := filepath.Abs(filepath.Join("testdata", pythonDir, "venv", "bin", "python"))
	if err != nil {
		t.Fatal(err)
	}
	need(t, interpreter, "the packages of testdata/sdk-python are not installed: make deps")
	return []string{interpreter, name + "_suite.py"}
}

// errorClass is the class of error that OpenAI's libraries make of a status;
// they do not agree about those without one, nor about errors in a stream.
func errorClass(status int) string {
	classes := map[int]string{
		400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
		409: "ConflictError", 422: "UnprocessableEntityError", 429: "RateLimitError",
	}
	if status >= 500 {
		return "InternalServerError"
	}
	return classes[status]
}
