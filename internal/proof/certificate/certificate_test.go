package certificate_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/proof/certificate"
	"trakr/internal/proof/merkle"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

const version = "v0.1.0"

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// log is a whole log in memory, with the key that signs it.
type log struct {
	tree   *merkle.Tree
	leaves []merkle.Hash
	tiles  map[[2]int64][]byte

	signer   note.Signer
	verifier note.Verifier
	key      string
}

// newLog returns an empty log. The seed is its key.
func newLog(t testing.TB, name string, seed byte) *log {
	t.Helper()
	return logOf(t, name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func logOf(t testing.TB, name string, private ed25519.PrivateKey) *log {
	t.Helper()
	public := private.Public().(ed25519.PublicKey)
	return &log{tree: merkle.NewTree(), tiles: map[[2]int64][]byte{}, signer: must[note.Signer](t)(merkle.NewSigner(name, private)),
		verifier: must[note.Verifier](t)(merkle.NewVerifier(name, public)), key: must[string](t)(merkle.VerifierKey(name, public))}
}

// add appends a record and returns its position.
func (l *log) add(record string) int64 {
	leaf := merkle.LeafHash([]byte(record))
	l.leaves = append(l.leaves, leaf)
	for _, tile := range l.tree.Append(leaf) {
		l.tiles[[2]int64{int64(tile.Level), tile.N}] = tile.Data
	}
	return int64(len(l.leaves) - 1)
}

// Tiles implements merkle.Reader.
func (l *log) Tiles(_ context.Context, level int, from, to int64) (data []byte, err error) {
	for n := from; n < to; n++ {
		data = append(data, l.tiles[[2]int64{int64(level), n}]...)
	}
	return data, nil
}

// Leaves implements merkle.Reader.
func (l *log) Leaves(_ context.Context, from, to int64) (data []byte, err error) {
	for _, h := range l.leaves[from:to] {
		data = append(data, h[:]...)
	}
	return data, nil
}

// prove adds the log's checkpoint and the proofs of a certificate's records.
func (l *log) prove(t testing.TB, c *certificate.Certificate) {
	t.Helper()
	p := merkle.NewProver(l.tree, l)
	c.Audit.LogIndexes = nil
	for i := range c.Audit.Events {
		x := &c.Audit.Events[i]
		x.Inclusion = nil
		for _, h := range must[[]merkle.Hash](t)(p.Inclusion(t.Context(), x.LogIndex)) {
			x.Inclusion = append(x.Inclusion, base64.StdEncoding.EncodeToString(h[:]))
		}
		c.Audit.LogIndexes = append(c.Audit.LogIndexes, x.LogIndex)
	}
	cp := merkle.Checkpoint{Origin: l.signer.Name(), Size: l.tree.Size(), Root: l.tree.Root()}
	c.Audit.Checkpoint = string(must[[]byte](t)(merkle.Sign(cp, l.signer)))
}

// id returns the same UUID for the same number.
func id(n int) string { return fmt.Sprintf("%08x-0000-7000-8000-000000000000", n) }

// record is a record of the log as audit.Event writes it.
func record(members map[string]any) string {
	for k, v := range members {
		if v == "" {
			delete(members, k)
		}
	}
	b, err := json.Marshal(members) // sorted, and nothing in it needs escapes
	if err != nil {
		panic(err)
	}
	return string(b)
}

func event(c certificate.Certificate, n int, action, detail string, at time.Time) (eventID, r string) {
	correlation := c.ErasureID
	if c.State == certificate.NothingHeld {
		correlation = c.RequestID
	}
	eventID = id(n)
	return eventID, record(map[string]any{"action": action, "actor_id": "trakr", "actor_type": "scheduler", "correlation_id": correlation, "event_id": eventID,
		"occurred_at": certificate.At(at).String(), "outcome": "success", "reason_code": "system_sweep", "schema_version": 1, "status_detail": detail,
		"subject_digest": c.SubjectDigest, "tenant_id": c.TenantID})
}

// append puts a record into the log and into the certificate.
func (l *log) append(c *certificate.Certificate, action, detail string, at time.Time) {
	n := len(l.leaves)
	eventID, r := event(*c, 1000+n, action, detail, at)
	c.Audit.Events = append(c.Audit.Events, certificate.Event{EventID: eventID, LogIndex: l.add(r), Record: r})
}

const digest = "00000001" + "4d1f0a9c7e2b3f5d8c6a1e0b9d7f3c2a4b6d8e0f1a3c5e7f9b0d2c4e6a8f0b1d"

// erased returns a certificate of an erasure, with evidence, not yet issued. Between
// its records stand those of others.
func (l *log) erased(t testing.TB, n int) certificate.Certificate {
	t.Helper()
	begun := noon.Add(time.Duration(n) * time.Minute)
	c := certificate.Certificate{CertificateID: id(n), State: certificate.Erased, IssuedAt: certificate.At(begun.Add(4 * time.Second)), Issuer: "Trakr Ltd",
		TenantID: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)).String(), SubjectDigest: digest, ErasureID: id(n + 1), RequestID: id(n + 2), Trigger: lifecycle.TriggerRequest,
		RequestedAt: certificate.At(begun.Add(-time.Hour)), StartedAt: certificate.At(begun), DeletedLiveAt: certificate.At(begun.Add(time.Second + 312*time.Microsecond)),
		BackupsClearAfter: certificate.At(begun.Add(30 * 24 * time.Hour)), Method: []string{certificate.RowDelete, certificate.BackupExpiry},
		Stores: []certificate.Store{{Name: "database", Location: "New York (NYC3), USA, on DigitalOcean", Table: "trakr.tenant_fields", RowsBefore: 1, RowsDeleted: 1},
			{Name: "database", Location: "New York (NYC3), USA, on DigitalOcean", Table: "trakr.replay_guard", RowsBefore: 3, RowsDeleted: 3}},
		Verification: certificate.Verification{SweepRunID: id(n + 3), PredicateDigest: digest[8:], Result: certificate.Clean, VerifiedAt: certificate.At(begun.Add(2 * time.Second)), Role: "trakr_sweep"},
		Recipients:   []certificate.Recipient{{Name: "end service", AcknowledgedAt: certificate.At(begun.Add(3 * time.Second))}, {Name: "archive"}},
		Retained:     []certificate.Retained{{What: "trakr.audit_events", Ground: "Accountability (GDPR Art. 5(2))", Until: "three years after the event"}},
		Hold:         &certificate.Hold{Ground: "litigation 7/26", Until: certificate.At(begun.Add(-time.Minute)), State: certificate.HoldReleased},
		ToolVersion:  version, PolicyHash: digest[8:]}
	for _, x := range []struct {
		action, detail string
		at             time.Time
	}{{"erasure.begin", string(c.Trigger), c.StartedAt.Time}, {"tenant.erase", string(c.Trigger), c.DeletedLiveAt.Time}, {"erasure.verify", certificate.Clean, c.Verification.VerifiedAt.Time}} {
		for range 3 {
			l.add(fmt.Sprintf(`{"action":"tenant.read","n":%d}`, len(l.leaves)))
		}
		l.append(&c, x.action, x.detail, x.at)
	}
	l.add(`{"action":"erasure.issue"}`)
	l.prove(t, &c)
	return c
}

// nothing returns a certificate that nothing was held.
func (l *log) nothing(t testing.TB, n int) certificate.Certificate {
	t.Helper()
	c := l.erased(t, n)
	c.State, c.TenantID, c.ErasureID, c.StartedAt, c.DeletedLiveAt, c.BackupsClearAfter = certificate.NothingHeld, "", "", certificate.Time{}, certificate.Time{}, certificate.Time{}
	c.Method, c.Recipients, c.Retained, c.Hold, c.Audit.Events = nil, nil, nil, nil, nil
	for i := range c.Stores {
		c.Stores[i].RowsBefore, c.Stores[i].RowsDeleted = 0, 0
	}
	l.append(&c, "erasure.verify", certificate.Clean, c.Verification.VerifiedAt.Time)
	l.prove(t, &c)
	return c
}

func (l *log) issue(t testing.TB, c certificate.Certificate) []byte {
	t.Helper()
	return must[[]byte](t)(certificate.Issue(c, l.signer, l.verifier))
}

func (l *log) verify(t testing.TB, file []byte) certificate.Report {
	t.Helper()
	return must[certificate.Report](t)(certificate.Verify(file, l.key, version))
}

// names reports whether a finding is at a place; with a fault, whether it is that one.
func names(r certificate.Report, pointer string, faults ...certificate.Fault) bool {
	for _, f := range r.Findings {
		ok := len(faults) == 0
		for _, want := range faults {
			ok = ok || want == f.Fault
		}
		if f.Pointer == pointer && ok && !r.Proven {
			return true
		}
	}
	return false
}

// Different places in logs of different sizes, of both kinds, in all three forms.
func TestAHundredCertificatesVerifyWithoutAFalseAlarm(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	r := rand.New(rand.NewPCG(4, 8785))
	var files [][]byte
	for n := range 100 {
		for range r.IntN(40) {
			l.add(fmt.Sprintf(`{"n":%d}`, r.Int64()))
		}
		c := l.erased(t, n*8)
		if n%5 == 4 {
			c = l.nothing(t, n*8)
		}
		if n%3 == 0 {
			c.Hold = nil
		}
		if n%7 == 0 {
			c.Recipients, c.Retained, c.Issuer = nil, nil, "Łódź </script> & “Söhne” 株式会社 \u2028"
		}
		if n%11 == 0 {
			for range 60 {
				c.Stores = append(c.Stores, certificate.Store{Name: "x", Location: strings.Repeat("far away ", 20+r.IntN(90)), Table: fmt.Sprint("t", len(c.Stores))})
			}
		}
		file := l.issue(t, c)
		if again := l.issue(t, c); string(again) != string(file) {
			t.Fatalf("%d: issued twice, the bytes differ", n)
		}
		files = append(files, file)
	}
	for n, file := range files {
		parsed := must[certificate.Certificate](t)(certificate.Parse(file))
		for _, format := range certificate.Formats() {
			b := must[[]byte](t)(parsed.Render(format))
			if got, ok := certificate.Recognise(b); !ok || got != format {
				t.Errorf("%d: %s is taken for %q", n, format, got)
			}
			if rep := l.verify(t, b); !rep.Proven || rep.Format != format || rep.Certificate == nil || rep.CertificateID != parsed.CertificateID {
				t.Fatalf("%d %s: %+v", n, format, rep)
			}
		}
	}
}

func TestWithoutTheRightKeyNothingIsProven(t *testing.T) {
	l, other, thief := newLog(t, "trakr-audit/test", 1), newLog(t, "trakr-audit/other", 2), newLog(t, "trakr-audit/test", 3)
	file := l.issue(t, l.erased(t, 1))
	if _, err := certificate.Verify(file, "", version); err != certificate.ErrNoKey {
		t.Error(err)
	}
	if _, err := certificate.Verify(file, "nonsense", version); err == nil {
		t.Error("a key that is none is taken")
	}
	for _, k := range []*log{other, thief} {
		if r := k.verify(t, file); !names(r, "/key_id", certificate.WrongKey) || !names(r, "/audit/checkpoint", certificate.Checkpoint) {
			t.Errorf("%+v", r)
		}
	}
	// Somebody without the key changes a certificate and signs it again: with his own
	// name, and under ours.
	for _, k := range []*log{other, thief} {
		forged := k.issue(t, k.erased(t, 1))
		if r := l.verify(t, forged); r.Proven || !names(r, "/key_id", certificate.WrongKey) {
			t.Errorf("%+v", r)
		}
		forged = []byte(strings.ReplaceAll(string(forged), k.signer.Name()+fmt.Sprintf("+%08x", k.signer.KeyHash()), l.signer.Name()+fmt.Sprintf("+%08x", l.signer.KeyHash())))
		if r := l.verify(t, forged); r.Proven || !(names(r, "/signature", certificate.Signature) || names(r, "/key_id")) {
			t.Errorf("%+v", r)
		}
	}
	if _, err := certificate.Issue(l.erased(t, 2), l.signer, thief.verifier); err == nil {
		t.Error("issued with a key that is not the log's")
	}
}

// The key signs checkpoints too: neither signature may pass for the other's.
func TestASignatureOfACheckpointIsNoneOfACertificate(t *testing.T) {
	l := newLog(t, "trakr-audit/test", 1)
	c := must[certificate.Certificate](t)(certificate.Parse(l.issue(t, l.erased(t, 1))))
	s := must[[]byte](t)(base64.StdEncoding.DecodeString(c.Signature))
	keyed := append([]byte{byte(l.verifier.KeyHash() >> 24), byte(l.verifier.KeyHash() >> 16), byte(l.verifier.KeyHash() >> 8), byte(l.verifier.KeyHash())}, s...)
	m := must[[]byte](t)(json.Marshal(c.Manifest))
	for _, text := range []string{"trakr/certificate-of-deletion/v1\x00" + string(m), "trakr/certificate-of-deletion/v1\x00" + string(m) + "\n"} {
		if text[len(text)-1] != '\n' && !l.verifier.Verify([]byte(text), s) {
			t.Fatal("the message is not the documented one")
		}
		signed := text + "\n— " + l.verifier.Name() + " " + base64.StdEncoding.EncodeToString(keyed) + "\n"
		if _, err := merkle.Open([]byte(signed), l.verifier); err == nil {
			t.Error("a certificate opens as a checkpoint")
		}
	}
	cp := c.Audit.Checkpoint
	sig := must[[]byte](t)(base64.StdEncoding.DecodeString(strings.Fields(cp[strings.LastIndex(cp, "— "):])[2]))
	file := string(must[[]byte](t)(c.JSON()))
	file = strings.Replace(file, c.Signature, base64.StdEncoding.EncodeToString(sig[4:]), 1)
	if r := l.verify(t, []byte(file)); !names(r, "/signature", certificate.Signature) {
		t.Errorf("%+v", r)
	}
}

// signed signs a certificate as somebody would who has the key and asks nothing.
func (l *log) signed(t testing.TB, c certificate.Certificate) []byte {
	t.Helper()
	c.Statement, c.KeyID = certificate.Statement, fmt.Sprintf("%s+%08x", l.verifier.Name(), l.verifier.KeyHash())
	none := func(p *[]string) {
		if *p == nil {
			*p = []string{}
		}
	}
	none(&c.Method)
	c.Audit.Events = append([]certificate.Event{}, c.Audit.Events...)
	for i := range c.Audit.Events {
		none(&c.Audit.Events[i].Inclusion)
	}
	c.Audit.LogIndexes = append([]int64{}, c.Audit.LogIndexes...)
	c.Stores = append([]certificate.Store{}, c.Stores...)
	return l.signedTree(t, tree(t, must[[]byte](t)(c.JSON())))
}

// signedTree signs whatever stands there.
func (l *log) signedTree(t testing.TB, v map[string]any) []byte {
	t.Helper()
	delete(v, "manifest")
	delete(v, "signature")
	signed := map[string]string{}
	for _, p := range pointers(v, "", true) {
		edit(v, p, func(x any) any {
			b := must[[]byte](t)(canonical(x))
			switch x := x.(type) {
			case map[string]any:
				return x
			case []any:
				if len(x) > 0 {
					return x
				}
			}
			sum := sha256.Sum256(b)
			signed[p] = hex.EncodeToString(sum[:])
			return x
		})
	}
	m := must[[]byte](t)(canonical(signed))
	s := must[[]byte](t)(l.signer.Sign(append([]byte("trakr/certificate-of-deletion/v1\x00"), m...)))
	v["manifest"], v["signature"] = signed, base64.StdEncoding.EncodeToString(s)
	return write(t, v)
}

// canonical is RFC 8785 for what certificates hold in these tests, by another
// encoder than the package's.
func canonical(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return []byte(strings.TrimSuffix(b.String(), "\n")), err
}

// The key is that of the keyring, as the service signs its checkpoints with it.
func TestAKeyringsKeySigns(t *testing.T) {
	k := must[*keyring.Keyring](t)(keyring.New())
	l := logOf(t, "trakr-audit/01a20e98", k.Signing())
	if r := l.verify(t, l.issue(t, l.erased(t, 1))); !r.Proven || r.Origin != "trakr-audit/01a20e98" {
		t.Errorf("%+v", r)
	}
}
