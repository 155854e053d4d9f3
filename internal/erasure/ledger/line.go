package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
)

const (
	formatVersion = 1
	holdVersion   = 2       // of a hold's line, which programs before it do not know
	maxLine       = 4 << 10 // bytes; a line is about 500
)

// header is the first line.
type header struct {
	V         int       `json:"v"`
	Seq       int64     `json:"seq"`
	LedgerID  string    `json:"ledger_id"`
	CreatedAt time.Time `json:"created_at"`
}

// line is the line of an erasure, with its members in this order.
type line struct {
	V             int       `json:"v"`
	Seq           int64     `json:"seq"`
	Prev          string    `json:"prev"`
	ErasureID     string    `json:"erasure_id"`
	TenantDigest  string    `json:"tenant_digest"`
	SubjectDigest string    `json:"subject_digest"`
	Trigger       string    `json:"trigger"`
	At            time.Time `json:"at"`
}

// holdLine is the line of a step of a hold, with its members in this order.
type holdLine struct {
	V            int       `json:"v"`
	Seq          int64     `json:"seq"`
	Prev         string    `json:"prev"`
	HoldID       string    `json:"hold_id"`
	Step         Step      `json:"step"`
	TenantDigest string    `json:"tenant_digest"`
	Ground       string    `json:"ground"`
	Until        time.Time `json:"until"`
	At           time.Time `json:"at"`
}

func newHeader(now time.Time) ([]byte, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("naming the ledger: %w", err)
	}
	return json.Marshal(header{V: formatVersion, LedgerID: id.String(), CreatedAt: now.UTC().Truncate(time.Microsecond)})
}

func parseHeader(raw []byte) (header, error) {
	var h header
	if err := decode(raw, &h); err != nil {
		return h, err
	}
	switch {
	case h.V != formatVersion:
		return h, fmt.Errorf("it has format version %d; this program reads %d", h.V, formatVersion)
	case h.Seq != 0:
		return h, errors.New("it is not a header")
	case !isUUID(h.LedgerID):
		return h, errors.New("the ledger's id is not a UUID")
	}
	return h, nil
}

func (e Entry) encode() ([]byte, error) {
	if h := e.Hold; h != nil {
		return json.Marshal(holdLine{
			V: holdVersion, Seq: e.Seq, Prev: e.Prev, HoldID: h.ID, Step: h.Step, TenantDigest: e.TenantDigest,
			Ground: h.Ground, Until: h.Until.UTC().Truncate(time.Microsecond), At: e.At.UTC().Truncate(time.Microsecond),
		})
	}
	return json.Marshal(line{
		V: formatVersion, Seq: e.Seq, Prev: e.Prev, ErasureID: e.ErasureID, TenantDigest: e.TenantDigest,
		SubjectDigest: e.SubjectDigest, Trigger: e.Trigger, At: e.At.UTC().Truncate(time.Microsecond),
	})
}

// parseEntry accepts the exact bytes that encode writes and no others, so that one entry
// has one hash.
func parseEntry(raw []byte) (Entry, error) {
	var form struct {
		V int `json:"v"`
	}
	if json.Unmarshal(raw, &form) != nil {
		return Entry{}, errors.New("it is not a line of a ledger")
	}
	e := Entry{Hash: hashOf(raw).String()}
	switch form.V {
	case formatVersion:
		var l line
		if err := decode(raw, &l); err != nil {
			return Entry{}, err
		}
		e.Seq, e.Prev, e.TenantDigest, e.At = l.Seq, l.Prev, l.TenantDigest, l.At
		e.ErasureID, e.SubjectDigest, e.Trigger = l.ErasureID, l.SubjectDigest, l.Trigger
	case holdVersion:
		var l holdLine
		if err := decode(raw, &l); err != nil {
			return Entry{}, err
		}
		e.Seq, e.Prev, e.TenantDigest, e.At = l.Seq, l.Prev, l.TenantDigest, l.At
		e.Hold = &Hold{ID: l.HoldID, Step: l.Step, Ground: l.Ground, Until: l.Until}
	default:
		return Entry{}, fmt.Errorf("it has format version %d; this program reads %d and %d", form.V, formatVersion, holdVersion)
	}
	if e.Seq < 1 {
		return Entry{}, errors.New("it has no number")
	}
	return e, e.check()
}

// key identifies an erasure or a step of a hold, of which a ledger has at most one line.
func (e Entry) key() string {
	if e.Hold != nil {
		return string(e.Hold.Step) + " " + e.Hold.ID
	}
	return e.ErasureID
}

// check validates the form of an entry. It accepts a trigger, ground or step of a later
// version.
func (e Entry) check() error {
	if e.Hold != nil {
		return e.checkHold()
	}
	switch {
	case !isUUID(e.ErasureID):
		return errors.New("erasure_id is not a UUID")
	case !isDigest(e.TenantDigest) || !isDigest(e.SubjectDigest):
		return errors.New("a digest is not hexadecimal of 32 to 64 bytes")
	case !isWord(e.Trigger):
		return errors.New("the trigger is not a word")
	case e.At.IsZero():
		return errors.New("it has no time")
	}
	return nil
}

func (e Entry) checkHold() error {
	switch h := e.Hold; {
	case e.ErasureID != "" || e.SubjectDigest != "" || e.Trigger != "":
		return errors.New("it is an erasure and a hold")
	case !isUUID(h.ID):
		return errors.New("hold_id is not a UUID")
	case !isDigest(e.TenantDigest):
		return errors.New("a digest is not hexadecimal of 32 to 64 bytes")
	case !isWord(string(h.Step)) || !isWord(h.Ground):
		return errors.New("the step or the ground is not a word")
	case e.At.IsZero() || h.Until.IsZero():
		return errors.New("it has no time")
	}
	return nil
}

// isWord reports whether s is a short name of letters and underscores. Free text is refused,
// so that no line can name a person.
func isWord(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// appendable validates an entry that this version is to write.
func (e Entry) appendable() error {
	err := e.check()
	switch {
	case err != nil:
	case e.Hold == nil && !slices.Contains(lifecycle.Triggers(), lifecycle.Trigger(e.Trigger)):
		err = errors.New("there is no such trigger")
	case e.Hold != nil && e.Hold.Step != Placed && e.Hold.Step != Released:
		err = errors.New("there is no such step of a hold")
	}
	if err != nil {
		return fmt.Errorf("an entry of the erasure ledger was refused: %w", err)
	}
	return nil
}

func decode[T any](raw []byte, into *T) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if d.Decode(into) != nil {
		return errors.New("it is not a line of a ledger")
	}
	again, err := json.Marshal(into)
	if err != nil || !bytes.Equal(again, raw) {
		return errors.New("its bytes are not those this program writes")
	}
	return nil
}

func isUUID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) >= 32 && len(b) <= 64 && strings.ToLower(s) == s
}

// hash is the SHA-256 of a line without its newline.
type hash [sha256.Size]byte

func hashOf(raw []byte) hash { return sha256.Sum256(raw) }

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// chain is what was read and verified so far.
type chain struct {
	id     string
	hashes []hash           // of each line, by its number
	known  map[string]int64 // by the entry's key
}

// add verifies the next line and adds it to the chain.
func (c *chain) add(raw []byte) (Entry, error) {
	next := int64(len(c.hashes))
	broken := func(why string) (Entry, error) { return Entry{}, ErrBroken{Line: next + 1, Why: why} }
	if next == 0 {
		h, err := parseHeader(raw)
		if err != nil {
			return broken(err.Error())
		}
		c.id, c.hashes, c.known = h.LedgerID, []hash{hashOf(raw)}, map[string]int64{}
		return Entry{}, nil
	}
	e, err := parseEntry(raw)
	switch {
	case err != nil:
		return broken(err.Error())
	case e.Seq != next:
		return broken(fmt.Sprintf("it has the number %d where %d belongs", e.Seq, next))
	case e.Prev != c.hashes[next-1].String():
		return broken("it does not follow from the line before it")
	}
	if n, ok := c.known[e.key()]; ok {
		return broken(fmt.Sprintf("its erasure, or step of a hold, is entry %d already", n))
	}
	c.hashes = append(c.hashes, hashOf(raw))
	c.known[e.key()] = next
	return e, nil
}

// next encodes an entry as the next line.
func (c *chain) next(e Entry) ([]byte, error) {
	e.Seq, e.Prev = int64(len(c.hashes)), c.hashes[len(c.hashes)-1].String()
	return e.encode()
}

// lacks returns the entries that the chain does not contain.
func (c *chain) lacks(all []Entry) (out []Entry) {
	for _, e := range all {
		if _, ok := c.known[e.key()]; !ok {
			out = append(out, e)
		}
	}
	return out
}

func (c *chain) last() int64 { return int64(len(c.hashes)) - 1 }

func (c *chain) head(seq int64) Head {
	return Head{LedgerID: c.id, Seq: seq, Hash: c.hashes[seq].String()}
}

func (c *chain) contains(seq int64, hash string) bool {
	return seq >= 0 && seq <= c.last() && c.hashes[seq].String() == hash
}
