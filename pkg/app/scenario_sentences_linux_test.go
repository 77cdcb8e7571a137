package app_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// untested are comments of the files that no test is named after.
var untested = map[string]string{
	"config.yaml":       "a name",
	"使用 Redis 存储，支持高并发": "there is file storage only, so far",
}

var yamlComment = regexp.MustCompile(`(?m)(?:^|\s)#[ \t]*(\S.*)$`)

// TestScenarioComments: for every comment in the scenarios' files there is a test
// named after it.
func TestScenarioComments(t *testing.T) {
	health := []sentence{{name: healthSentence}}
	for file, sentences := range map[string][]sentence{
		"scenario1.yaml": slices.Concat(serviceSentences, health),
		"scenario2.yaml": slices.Concat(assistantSentences, departmentSentences()),
		"scenario3.yaml": slices.Concat(providerSentences, customerSentences, limitSentences, health),
		"scenario4.yaml": slices.Concat(labSentences, teamSentences()),
		"scenario5.yaml": slices.Concat(edgeSentences, health),
	} {
		text, err := os.ReadFile("../config/testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		comments := yamlComment.FindAllStringSubmatch(string(text), -1)
		if len(comments) < 5 {
			t.Errorf("%s has only the comments %q", file, comments)
		}
		for _, m := range comments {
			named := slices.ContainsFunc(sentences, func(s sentence) bool { return strings.Contains(s.name, m[1]) })
			if !named && untested[m[1]] == "" {
				t.Errorf("%s: no test is named after %q", file, m[1])
			}
		}
	}
}
