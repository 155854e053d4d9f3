package certificate

import (
	"bytes"
	"compress/zlib"
	"io"
	"regexp"
	"strconv"
)

// MaxFile bounds, in bytes, a page that is read: a certificate's JSON, its text and
// what surrounds them.
const MaxFile = 8 << 20

// Recognise reports whether a file may be a certificate or have one in it, and in
// which form. An exported audit is none.
func Recognise(file []byte) (Format, bool) {
	_, format, _ := unwrap(file)
	return format, format != ""
}

// htmlOpen begins the element that holds the certificate in a page.
const htmlOpen = `<script type="application/json" id="certificate">`

// unwrap returns the JSON of a certificate and the form of the file. No format means
// that it holds none.
func unwrap(file []byte) (b []byte, f Format, fault *Finding) {
	start := bytes.TrimLeft(file[:min(len(file), MaxFile)], " \t\r\n")
	head := start[:min(len(start), 1<<10)]
	switch {
	case bytes.HasPrefix(head, []byte("{")):
		return unwrapJSON(file, start)
	case bytes.HasPrefix(head, []byte("%PDF-")):
		f = PDF
	case bytes.HasPrefix(bytes.ToLower(head), []byte("<!doctype html")), bytes.HasPrefix(bytes.ToLower(head), []byte("<html")):
		f = HTML
	default:
		return nil, "", nil
	}
	if len(file) > MaxFile {
		return nil, f, &Finding{Malformed, "", "it is longer than 8 MiB, which no certificate is"}
	}
	if f == PDF {
		return unwrapPDF(file)
	}
	return unwrapHTML(file)
}

// unwrapJSON knows a certificate by members that no other file of ours has. Names
// may have been changed, so that several are looked for.
func unwrapJSON(file, start []byte) ([]byte, Format, *Finding) {
	for _, other := range []string{`{"log_index":`, `{"trakr_`, `{"unmapped":`} { // an exported audit
		if bytes.HasPrefix(start, []byte(other)) {
			return nil, "", nil
		}
	}
	for _, name := range []string{`"certificate_id"`, `"subject_digest"`, `"backups_clear_after"`, `"manifest"`} {
		if bytes.Contains(start, []byte(name)) {
			return file, JSON, nil
		}
	}
	return nil, "", nil
}

func unwrapHTML(file []byte) ([]byte, Format, *Finding) {
	switch n := bytes.Count(file, []byte(htmlOpen)); {
	case n == 0:
		return nil, "", nil
	case n > 1:
		return nil, HTML, &Finding{Malformed, "", "the page holds more than one certificate"}
	}
	_, rest, _ := bytes.Cut(file, []byte(htmlOpen))
	b, _, ended := bytes.Cut(rest, []byte("</script>"))
	if !ended {
		return nil, HTML, &Finding{Malformed, "", "the page ends in the middle of its certificate"}
	}
	return b, HTML, nil
}

// attached matches the head of an attachment as our PDFs have it.
var attached = regexp.MustCompile(`<< /Type /EmbeddedFile /Length (\d{1,8}) /Filter /FlateDecode [^\n]*>>\n+stream\n`)

func unwrapPDF(file []byte) ([]byte, Format, *Finding) {
	heads := attached.FindAllSubmatchIndex(file, 2)
	switch {
	case len(heads) == 0:
		return nil, "", nil
	case len(heads) > 1:
		return nil, PDF, &Finding{Malformed, "", "the PDF has more than one attachment"}
	}
	broken := &Finding{Malformed, "", "the PDF's attachment cannot be read: it was changed or cut"}
	from := heads[0][1]
	n, err := strconv.Atoi(string(file[heads[0][2]:heads[0][3]]))
	if err != nil || n > len(file)-from {
		return nil, PDF, broken
	}
	z, err := zlib.NewReader(bytes.NewReader(file[from : from+n]))
	if err != nil {
		return nil, PDF, broken
	}
	b, err := io.ReadAll(io.LimitReader(z, maxJSON+1)) // more than maxJSON is refused as such
	if err != nil && len(b) <= maxJSON {
		return nil, PDF, broken
	}
	return b, PDF, nil
}
