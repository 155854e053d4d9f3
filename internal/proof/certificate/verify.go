package certificate

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"trakr/internal/proof/merkle"
)

// Fault is what is wrong with a certificate.
type Fault string

// The faults; there are no others.
const (
	Malformed   Fault = "malformed"   // no JSON, a member twice, too long
	Form        Fault = "form"        // a member of another type or form, or one that is none of ours
	Changed     Fault = "changed"     // a value is not the one that was signed
	Added       Fault = "added"       // it was not there when it was signed
	Removed     Fault = "removed"     // it was signed and is missing
	Moved       Fault = "moved"       // it was signed at another place of its list
	Signature   Fault = "signature"   // the signature is not valid
	WrongKey    Fault = "wrong_key"   // signed with another key than the one given
	Incomplete  Fault = "incomplete"  // evidence that a certificate must carry is not there
	Checkpoint  Fault = "checkpoint"  // the checkpoint is not signed by the key
	Inclusion   Fault = "inclusion"   // a record is not proven to be in the log
	Contradicts Fault = "contradicts" // a field contradicts its evidence or another field
	Page        Fault = "page"        // the HTML or PDF differs from its certificate
)

// Finding is one thing that is wrong, and where.
type Finding struct {
	Fault   Fault  `json:"fault"`
	Pointer string `json:"pointer"` // RFC 6901, into the certificate; "" for all of it
	Detail  string `json:"detail"`
}

// Report is what Verify found out.
type Report struct {
	Kind     string    `json:"kind"` // "certificate"
	Format   Format    `json:"format"`
	Proven   bool      `json:"proven"` // nothing is wrong, and nothing is left open
	Findings []Finding `json:"findings"`
	Unjudged string    `json:"unjudged,omitempty"` // what could not be checked, although the certificate itself is proven

	// The rest is the certificate's content, and absent unless it is proven.
	CertificateID     string  `json:"certificate_id,omitempty"`
	State             State   `json:"state,omitempty"`
	Issuer            string  `json:"issuer,omitempty"`
	TenantID          string  `json:"tenant_id,omitempty"`
	SubjectDigest     string  `json:"subject_digest,omitempty"`
	ErasureID         string  `json:"erasure_id,omitempty"`
	RequestID         string  `json:"request_id,omitempty"`
	DeletedLiveAt     Time    `json:"deleted_live_at,omitzero"`
	BackupsClearAfter Time    `json:"backups_clear_after,omitzero"`
	Origin            string  `json:"origin,omitempty"` // the log's name
	LogIndexes        []int64 `json:"log_indexes,omitempty"`

	Certificate *Certificate `json:"-"`
}

// Errors that leave the answer open.
var (
	ErrNoKey = errors.New("without the log's public key nothing can be proven: anyone who changes a certificate " +
		"can sign it with a key of their own")
	ErrNotCertificate = errors.New("this is not a certificate, nor a page that has one in it")
)

// maxFindings bounds a report about a file that is wrong everywhere.
const maxFindings = 100

// Verify checks a certificate's file, be it JSON, HTML or PDF, against the log's
// public key (C2SP signed-note), which must have come by another way than the file.
// version is that of the running program: only a page of the same version can be
// rendered again and compared.
//
// A finding is in the report; an error means that no verdict is possible.
func Verify(file []byte, key, version string) (Report, error) {
	if key == "" {
		return Report{}, ErrNoKey
	}
	v, err := merkle.ParseVerifier(key)
	if err != nil {
		return Report{}, fmt.Errorf("reading the key: %w", err)
	}
	r := Report{Kind: "certificate", Findings: []Finding{}}
	b, format, fault := unwrap(file)
	if format == "" {
		return Report{}, ErrNotCertificate
	}
	r.Format = format
	if fault != nil {
		r.Findings = append(r.Findings, *fault)
		return r, nil
	}
	c, faults := validate(b, v)
	if len(faults) == 0 {
		faults = r.comparePage(file, c, version)
	}
	if len(faults) > 0 {
		r.Findings = faults[:min(len(faults), maxFindings)]
		return r, nil
	}
	r.Proven = r.Unjudged == ""
	r.CertificateID, r.State, r.Issuer, r.TenantID, r.SubjectDigest = c.CertificateID, c.State, c.Issuer, c.TenantID, c.SubjectDigest
	r.ErasureID, r.RequestID, r.DeletedLiveAt, r.BackupsClearAfter = c.ErasureID, c.RequestID, c.DeletedLiveAt, c.BackupsClearAfter
	r.Origin, r.LogIndexes, r.Certificate = v.Name(), c.Audit.LogIndexes, &c
	return r, nil
}

// comparePage renders the page again and compares every byte.
func (r *Report) comparePage(file []byte, c Certificate, version string) []Finding {
	if r.Format == JSON {
		return nil
	}
	again, err := c.Render(r.Format)
	switch {
	case err == nil && bytes.Equal(again, file):
	case c.ToolVersion != version:
		r.Unjudged = fmt.Sprintf("The certificate inside is proven. This version (%s) cannot check whether the page "+
			"around it agrees with it, because version %s made the page: "+
			"read the certificate's JSON, or verify with that version.", version, c.ToolVersion)
	default:
		return []Finding{{Page, "", "the page differs from its certificate: its text or its layout was changed after it was made"}}
	}
	return nil
}

// validate checks a certificate's JSON. Once a value is known not to be the signed
// one, what follows from it is not listed as well.
func validate(b []byte, v note.Verifier) (Certificate, []Finding) {
	c, leaves, faults := read(b)
	if leaves == nil {
		return c, faults
	}
	faults = append(unaltered(c, leaves, v), faults...)
	if !altered(faults) {
		faults = append(faults, evidence(c, v)...)
	}
	return c, once(faults)
}

// unaltered compares a certificate with what was signed. The manifest given and the
// one made of the file's own values are both tried: the one that is signed shows
// whether the values or the manifest were changed.
func unaltered(c Certificate, leaves map[string]string, v note.Verifier) []Finding {
	file := manifest(leaves)
	signature, err := base64.StdEncoding.Strict().DecodeString(c.Signature)
	whole := err == nil && base64.StdEncoding.EncodeToString(signature) == c.Signature
	signed := func(m map[string]string) bool { return whole && v.Verify(message(m), signature) }
	var out []Finding
	switch {
	case signed(file):
		for _, f := range compareLeaves("", file, c.Manifest) {
			out = append(out, Finding{f.Fault, "/manifest/" + escape(f.Pointer),
				"the manifest is not the one that was signed, whereas the value is"})
		}
		return out
	case signed(c.Manifest):
		out = differences(c.Manifest, file)
		if len(out) == 0 { // not reached: maps that differ have a difference
			out = append(out, Finding{Changed, "", "the certificate is not the one that was signed"})
		}
		return out
	}
	out = differences(c.Manifest, file)
	if c.KeyID != keyID(v) {
		return append(out, Finding{WrongKey, "/key_id",
			"the certificate names another key than the one given, and the one given did not sign it"})
	}
	return append(out, Finding{Signature, "/signature",
		"the signature is not valid: it was changed, or the certificate was and its manifest with it, or another key signed it"})
}

// altered reports whether a value is not the signed one or has no meaning.
func altered(faults []Finding) bool {
	for _, f := range faults {
		if f.Fault != Signature && f.Fault != WrongKey {
			return true
		}
	}
	return false
}

// once keeps the first finding of each place.
func once(faults []Finding) []Finding {
	seen := map[string]bool{}
	var out []Finding
	for _, f := range faults {
		if !seen[f.Pointer] {
			seen[f.Pointer] = true
			out = append(out, f)
		}
	}
	return out
}
