package openai

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// part is a part of a form with the boundary XX, up to its last byte of data.
func part(disposition, data string) string {
	return "--XX\r\nContent-Disposition: form-data; " + disposition + "\r\n\r\n" + data + "\r\n"
}

const lastBoundary = "--XX--\r\n"

func piecesOf(n int) func() int { return func() int { return n } }

// written reads a form in pieces of these sizes.
func written(t *testing.T, body string, size func() int) (*Form, error) {
	t.Helper()
	f, err := NewForm("multipart/form-data; boundary=XX")
	if err != nil {
		t.Fatal(err)
	}
	for rest := []byte(body); len(rest) > 0; {
		piece := rest[:min(size(), len(rest))]
		if n, err := f.Write(piece); err != nil || n != len(piece) {
			return f, err
		}
		rest = rest[len(piece):]
	}
	return f, f.Close()
}

func TestForm(t *testing.T) {
	file := part(`name="file"; filename="a.mp3"`, "ID3\r\n--X\r\n--\r\n\r\r\n--XY\r\n")
	type want struct {
		model  string
		stream bool
		value  string // that stands between ModelFrom and ModelTo
	}
	for name, c := range map[string]struct {
		body string
		want want
	}{
		"no parts":                        {lastBoundary, want{}},
		"line ends before the boundary":   {"\r\n\r\n" + part(`name="model"`, "m") + lastBoundary, want{"m", false, "m"}},
		"no field of ours":                {file + part(`name="prompt"`, "model") + lastBoundary, want{}},
		"model before the file":           {part(`name="model"`, "whisper") + file + lastBoundary, want{"whisper", false, "whisper"}},
		"model behind the file":           {file + part(`name="model"`, "whisper") + lastBoundary, want{"whisper", false, "whisper"}},
		"all but a delimiter":             {part(`name="model"`, "\rX--XX\r\n") + lastBoundary, want{"\rX--XX\r\n", false, "\rX--XX\r\n"}},
		"empty model":                     {part(`name="model"`, "") + lastBoundary, want{}},
		"model of several lines":          {part(`name="model"`, "a\r\n--X\r\n\r") + lastBoundary, want{"a\r\n--X\r\n\r", false, "a\r\n--X\r\n\r"}},
		"longest model":                   {part(`name="model"`, strings.Repeat("m", 4096)) + lastBoundary, want{strings.Repeat("m", 4096), false, strings.Repeat("m", 4096)}},
		"name without quotes":             {part(`name=model`, "m") + lastBoundary, want{"m", false, "m"}},
		"head in other cases":             {"--XX\r\nCONTENT-disposition:FORM-Data ;\tname=\"model\" \r\n\r\nm\r\n" + lastBoundary, want{"m", false, "m"}},
		"model with harmless headers":     {"--XX\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit\r\n" + part(`name="model"`, "mé")[6:] + lastBoundary, want{"mé", false, "mé"}},
		"Java's charset":                  {"--XX\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n" + part(`name="model"`, "m")[6:] + lastBoundary, want{"m", false, "m"}},
		"other spelling is another":       {part(`name="Model"`, "x") + part(`name="models"`, "y") + lastBoundary, want{}},
		"name with a backslash elsewhere": {part(`name="file"; filename="C:\\a \"b\".mp3"`, "") + part(`name="model"`, "m") + lastBoundary, want{"m", false, "m"}},
		"filename in other letters":       {part(`name="file"; filename="é;x.mp3"; filename*=UTF-8''%C3%A9.mp3`, "") + part(`name="model"`, "m") + lastBoundary, want{"m", false, "m"}},
		"name in a filename":              {part(`name="file"; filename="a; name=model; b"`, "x") + lastBoundary, want{}},
		"model in the file":               {part(`name="file"; filename="x"`, "\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nevil") + lastBoundary, want{}},
		"encoded file":                    {"--XX\r\nContent-Transfer-Encoding: base64\r\nContent-Type: ;\r\n" + part(`name="file"; filename="x"`, "x")[6:] + lastBoundary, want{}},
		"streamed":                        {part(`name="stream"`, "true") + lastBoundary, want{stream: true}},
		"streamed, from Python":           {part(`name="stream"`, "True") + lastBoundary, want{stream: true}},
		"not streamed":                    {part(`name="stream"`, "false") + lastBoundary, want{}},
		"line ends behind the last":       {part(`name="model"`, "m") + lastBoundary + "\r\n\r\n", want{"m", false, "m"}},
		"no line end behind the last":     {part(`name="model"`, "m") + "--XX--", want{"m", false, "m"}},
		"most parts":                      {strings.Repeat(part(`name="x"`, ""), 63) + part(`name="model"`, "m") + lastBoundary, want{"m", false, "m"}},
		"longest head":                    {part(`name="file"; filename="`+strings.Repeat("x", 8192-60)+`"`, "") + lastBoundary, want{}},
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; n < 1<<20; n += 1 + n/20 {
				f, err := written(t, c.body, piecesOf(n))
				if err != nil {
					t.Fatalf("in pieces of %d: %v", n, err)
				}
				got := want{f.Model, f.Stream, c.body[f.ModelFrom:f.ModelTo]}
				if got != c.want {
					t.Errorf("in pieces of %d: got %+v, want %+v", n, got, c.want)
				}
			}
		})
	}
}

func TestFormRefuses(t *testing.T) {
	model := part(`name="model"`, "m")
	head := func(lines string) string { return "--XX\r\n" + lines + "\r\n\r\nm\r\n" + lastBoundary }
	const disposition = "Content-Disposition: form-data; "
	for name, c := range map[string]struct{ body, param string }{
		"nothing":                           {"", ""},
		"JSON":                              {`{"model":"m"}`, ""},
		"text before the first boundary":    {"x\r\n" + model + lastBoundary, ""},
		"other boundary":                    {"--XY\r\n", ""},
		"longer boundary":                   {"--XXX\r\n", ""},
		"line feeds only":                   {strings.ReplaceAll(model+lastBoundary, "\r\n", "\n"), ""},
		"white space behind a boundary":     {"--XX \r\n" + model[6:] + lastBoundary, ""},
		"boundary as the beginning of data": {part(`name="x"`, "\r\n--XXX") + lastBoundary, ""},
		"one hyphen behind a boundary":      {model + "--XX-\r\n", ""},
		"no data":                           {"--XX\r\n" + disposition + "name=x\r\n\r\n--XX--\r\n", ""},
		"not ended":                         {model, ""},
		"cut in the data":                   {model[:len(model)-2], ""},
		"cut in the last boundary":          {model + "--XX-", ""},
		"cut in the line end":               {model + "--XX--\r", ""},
		"text behind the last boundary":     {model + lastBoundary + "x", ""},
		"part behind the last boundary":     {part(`name="x"`, "") + lastBoundary + model + lastBoundary, ""},
		"no head":                           {"--XX\r\n\r\nm\r\n" + lastBoundary, ""},
		"no disposition":                    {head("Content-Type: text/plain"), ""},
		"no name":                           {head("Content-Disposition: form-data"), ""},
		"attachment":                        {head(`Content-Disposition: attachment; name="model"`), ""},
		"form-data-x":                       {head(`Content-Disposition: form-data-x; name="model"`), ""},
		"two dispositions":                  {head(disposition + "name=x\r\n" + disposition + "name=model"), ""},
		"name twice":                        {head(disposition + `name="x"; name="model"`), ""},
		"name behind the filename":          {head(disposition + `filename="x"; name="model"`), ""},
		"filename twice":                    {head(disposition + `name="x"; filename="a"; filename="b"`), ""},
		"extended name":                     {head(disposition + `name*=utf-8''model`), ""},
		"extended name beside the name":     {head(disposition + `name="x"; name*=utf-8''model`), ""},
		"name in pieces":                    {head(disposition + `name="x"; name*0="model"`), ""},
		"Name":                              {head(disposition + `Name="model"`), ""},
		"Name behind the name":              {head(disposition + `name="x"; Name="model"`), ""},
		"name with an escape":               {head(disposition + `name="m\odel"`), ""},
		"name in single quotes and spaces":  {head(disposition + `name='a b'`), ""},
		"empty name without quotes":         {head(disposition + `name=`), ""},
		"name without its end":              {head(disposition + `name="model`), ""},
		"name that ends in an escape":       {head(disposition + `name="model\"`), ""},
		"junk behind the name":              {head(disposition + `name="x"model`), ""},
		"space before the equals sign":      {head(disposition + `name ="model"`), ""},
		"semicolon at the end":              {head(disposition + `name="model";`), ""},
		"name behind an escaped quote":      {head(disposition + `name="x"; filename="a\"; name=\"model"`), ""},
		"folded line":                       {head("Content-Disposition: form-data;\r\n name=\"model\""), ""},
		"line feed in a head":               {head("X: y\nContent-Disposition: form-data; name=\"model\""), ""},
		"NUL in a head":                     {head(disposition + "name=\"model\"\r\nX: \x00"), ""},
		"control character in a name":       {head(disposition + "name=\"mod\x02l\""), ""},
		"space before a colon":              {head(`Content-Disposition : form-data; name="model"`), ""},
		"line without a colon":              {head(disposition + "name=model\r\nX"), ""},
		"head too long":                     {head(disposition + `name="file"; filename="` + strings.Repeat("x", 8192-59) + `"`), ""},
		"head without an end":               {"--XX\r\n" + strings.Repeat("x", 1<<20), ""},
		"too many parts":                    {strings.Repeat(part(`name="x"`, ""), 65) + lastBoundary, ""},
		"model twice":                       {model + model + lastBoundary, "model"},
		"model twice, once empty":           {part(`name="model"`, "") + model + lastBoundary, "model"},
		"model twice, once without quotes":  {part(`name=model`, "x") + model + lastBoundary, "model"},
		"stream twice":                      {part(`name="stream"`, "x") + part(`name="stream"`, "true") + lastBoundary, "stream"},
		"model as a file":                   {part(`name="model"; filename="x"`, "m") + lastBoundary, "model"},
		"model as a file of no name":        {part(`name="model"; filename=""`, "m") + lastBoundary, "model"},
		"model as a file, extended":         {part(`name="model"; filename*=utf-8''x`, "m") + lastBoundary, "model"},
		"model in base64":                   {"--XX\r\nContent-Transfer-Encoding: base64\r\n" + model[6:] + lastBoundary, "model"},
		"model in quoted-printable, twice":  {"--XX\r\nContent-Transfer-Encoding: 8bit\r\nContent-transfer-encoding: quoted-printable\r\n" + model[6:] + lastBoundary, "model"},
		"model in UTF-16":                   {"--XX\r\nContent-Type: text/plain; charset=utf-16\r\n" + model[6:] + lastBoundary, "model"},
		"model in UTF-7, said second":       {"--XX\r\nContent-Type: text/plain\r\nContent-Type: text/plain; charset=utf-7\r\n" + model[6:] + lastBoundary, "model"},
		"model in UTF-16, said first":       {"--XX\r\nContent-Type: text/plain; charset=utf-16\r\nContent-Type: text/plain\r\n" + model[6:] + lastBoundary, "model"},
		"model of an unreadable type":       {"--XX\r\nContent-Type: text/plain; charset\r\n" + model[6:] + lastBoundary, "model"},
		"model not in UTF-8":                {part(`name="model"`, "m\xff") + lastBoundary, "model"},
		"model in Latin-1, read as UTF-8":   {"--XX\r\nContent-Type: text/plain; charset=iso-8859-1\r\n" + part(`name="model"`, "é")[6:] + lastBoundary, "model"},
		"model too long":                    {part(`name="model"`, strings.Repeat("m", 4097)) + lastBoundary, "model"},
		"model too long by half a boundary": {part(`name="model"`, strings.Repeat("m", 4096)+"\r\n--X") + lastBoundary, "model"},
		"stream without an end":             {part(`name="stream"`, strings.Repeat("m", 1<<20)), "stream"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 2, 5, 64, 1 << 21} {
				f, err := written(t, c.body, piecesOf(n))
				var syntax *SyntaxError
				if !errors.As(err, &syntax) || syntax.Param != c.param || syntax.Message == "" {
					t.Fatalf("in pieces of %d: got %v, %+v, want param %q", n, err, f, c.param)
				}
				if _, again := f.Write([]byte(lastBoundary)); !errors.Is(again, err) || !errors.Is(f.Close(), err) {
					t.Errorf("the error was forgotten: %v, %v", again, f.Close())
				}
			}
		})
	}
}

func TestNewForm(t *testing.T) {
	for name, c := range map[string]struct{ contentType, boundary string }{
		"curl":                      {"multipart/form-data; boundary=------------------------d74496d66958873e", "------------------------d74496d66958873e"},
		"undici":                    {"multipart/form-data; boundary=----formdata-undici-012345678901", "----formdata-undici-012345678901"},
		"quoted, with a charset":    {`Multipart/Form-Data; charset=UTF-8; Boundary="a:b=c?"`, "a:b=c?"},
		"longest":                   {"multipart/form-data; boundary=" + strings.Repeat("a", 70), strings.Repeat("a", 70)},
		"too long":                  {"multipart/form-data; boundary=" + strings.Repeat("a", 71), ""},
		"nothing":                   {"", ""},
		"JSON":                      {"application/json", ""},
		"mixed":                     {"multipart/mixed; boundary=a", ""},
		"no boundary":               {"multipart/form-data", ""},
		"empty boundary":            {`multipart/form-data; boundary=""`, ""},
		"boundary twice":            {"multipart/form-data; boundary=a; boundary=b", ""},
		"boundary in two ways":      {"multipart/form-data; boundary=a; boundary*=utf-8''b", ""},
		"boundary in pieces":        {"multipart/form-data; boundary*0=a; boundary*1=b", ""},
		"boundary in another value": {`multipart/form-data; x="boundary=b"; boundary=a`, ""},
		"boundary with an escape":   {`multipart/form-data; boundary="a\b"`, ""},
		"boundary with a space":     {`multipart/form-data; boundary="a b"`, ""},
		"boundary with a line end":  {"multipart/form-data; boundary=\"a\r\nb\"", ""},
		"UTF-16":                    {"multipart/form-data; charset=utf-16; boundary=a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := NewForm(c.contentType)
			if c.boundary == "" {
				if _, ok := errors.AsType[*SyntaxError](err); !ok {
					t.Errorf("got %v, want a *SyntaxError", err)
				}
				return
			}
			if err != nil || f.Boundary() != c.boundary {
				t.Fatalf("got %v, %v, want %q", f, err, c.boundary)
			}
			fmt.Fprintf(f, "--%s\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--%[1]s--\r\n", c.boundary)
			if err := f.Close(); err != nil || f.Model != "m" {
				t.Errorf("got %+v, %v", f, err)
			}
		})
	}
}

// A file that is nothing but beginnings of boundaries, the worst there is, leaves
// a Form of the size it had.
func TestFormHoldsNoFile(t *testing.T) {
	f, err := NewForm("multipart/form-data; boundary=XX")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f, part(`name="file"; filename="`+strings.Repeat("x", 8000)+`"`, ""))
	for range 100 {
		f.Write(worstFile)
	}
	if held := cap(f.head) + cap(f.text) + cap(f.delimiter); held > 16<<10 {
		t.Errorf("holds %d bytes", held)
	}
	io.WriteString(f, "\r\n"+part(`name="model"`, "m")+lastBoundary)
	if err := f.Close(); err != nil || f.Model != "m" {
		t.Errorf("got %+v, %v", f, err)
	}
}

var worstFile = []byte(strings.Repeat("\r\n--X", 4<<10))
