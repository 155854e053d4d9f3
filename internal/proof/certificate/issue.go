package certificate

import (
	"encoding/base64"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"
)

// Statement is what every certificate claims.
const Statement = "This is a certificate of logical deletion. It states which rows were deleted from which tables of the live database, " +
	"that another role than the one that deletes counted none left, and after which day no backup holds them. " +
	"It makes no claim about storage media: sanitising media is what NIST SP 800-88 is about, " +
	"and on a managed disk it is its owner's to attest."

// NothingStatement is the claim when there was nothing to delete.
const NothingStatement = "This is a certificate of logical deletion. " +
	"It states that the live database was searched for the subject's digest by another role than the one that deletes, " +
	"and that no row was found: there was nothing to delete. " +
	"It makes no claim about storage media: sanitising media is what NIST SP 800-88 is about, " +
	"and on a managed disk it is its owner's to attest."

// Issue signs a certificate with the log's key and returns its file. It refuses one
// that Verify would not accept: what contradicts its own evidence is not signed.
// The same fields give the same bytes.
func Issue(c Certificate, s note.Signer, v note.Verifier) ([]byte, error) {
	if s.Name() != v.Name() || s.KeyHash() != v.KeyHash() {
		return nil, fmt.Errorf("issuing a certificate: the signer %s is not the key of the log %s", s.Name(), v.Name())
	}
	c.Statement = Statement
	if c.State == NothingHeld {
		c.Statement = NothingStatement
	}
	c.KeyID, c.Manifest, c.Signature = keyID(v), nil, ""
	// An empty list is written as one.
	c.Method, c.Stores, c.Recipients, c.Retained = list(c.Method), list(c.Stores), list(c.Recipients), list(c.Retained)
	c.Audit.Events, c.Audit.LogIndexes = list(slices.Clone(c.Audit.Events)), list(c.Audit.LogIndexes)
	for i := range c.Audit.Events {
		c.Audit.Events[i].Inclusion = list(c.Audit.Events[i].Inclusion)
	}
	unsigned, err := c.JSON()
	if err != nil {
		return nil, err
	}
	leaves, fault := flatten(unsigned)
	if fault != nil {
		return nil, fmt.Errorf("issuing a certificate: %s: %s", fault.Pointer, fault.Detail)
	}
	c.Manifest = manifest(leaves)
	signature, err := s.Sign(message(c.Manifest))
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	c.Signature = base64.StdEncoding.EncodeToString(signature)
	b, err := c.JSON()
	if err != nil {
		return nil, err
	}
	if _, faults := validate(b, v); len(faults) > 0 {
		return nil, fmt.Errorf("issuing a certificate: it would not verify: %s: %s", faults[0].Pointer, faults[0].Detail)
	}
	return b, nil
}

// keyID names a key without what it is: the first two parts of its text (C2SP
// signed-note).
func keyID(v note.Verifier) string { return fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()) }

func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
