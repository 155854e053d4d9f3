package certificate

import (
	"fmt"
	"strconv"
)

// page is what a person reads: the same sentences and tables in HTML and in PDF.
// All of it is made of the certificate.
type page struct {
	Title, Headline, Statement string
	Issuer                     string
	Facts                      []fact
	Sections                   []section
	How                        []string // how to verify, step by step
	Checkpoint                 string
	Footer                     string
}

type fact struct{ Name, Value string }

// section is one table.
type section struct {
	ID, Title, Intro string
	Columns          []column
	Rows             [][]string
}

// column is one column of a table. Width is its share of the page.
type column struct {
	Title   string
	Width   int
	Numeric bool
}

// pageTitle is the same for every certificate.
const pageTitle = "Certificate of Deletion (logical)"

func (c Certificate) page() page {
	p := page{Title: pageTitle, Statement: c.Statement, Issuer: c.Issuer, Checkpoint: c.Audit.Checkpoint, Facts: c.facts(),
		Footer: fmt.Sprintf("Times are UTC. Made by trakr %s under the policy with SHA-256 %s.", c.ToolVersion, c.PolicyHash)}
	if c.State == Erased {
		p.Headline = fmt.Sprintf("Gone from the live service since %s. Gone from backups after %s.", c.DeletedLiveAt, c.BackupsClearAfter)
		p.Sections = append(p.Sections, c.dates())
	} else {
		p.Headline = fmt.Sprintf("Nothing was held. It was looked for on %s and not found; nothing was deleted.", c.Verification.VerifiedAt)
	}
	p.Sections = append(p.Sections, c.stores(), c.retained())
	if c.Hold != nil {
		p.Sections = append(p.Sections, section{ID: "hold", Title: "Legal hold", Intro: "A legal hold delayed the deletion. It has ended.",
			Columns: []column{{"Ground", 60, false}, {"Set until", 25, false}, {"How it ended", 15, false}},
			Rows:    [][]string{{c.Hold.Ground, c.Hold.Until.String(), c.Hold.State}}})
	}
	p.Sections = append(p.Sections, c.verification(), c.recipients(), c.records())
	p.How = []string{
		"Get the log's public key by another way than this certificate, from whoever runs the service: trakr audit checkpoint --key",
		"Without network or database, run: trakr verify FILE --key KEY. FILE is this page, the PDF, or the JSON that both hold.",
		"It proves that nothing in the certificate was changed since it was signed, " +
			"that each record stood in the log of the signed checkpoint below, " +
			"and that the dates, the trigger and the result are those of the records. " +
			"Of an HTML page or a PDF it also proves the text.",
		"Not proven, but signed: that the counts and the places are true, when backups are gone, and what recipients acknowledged.",
	}
	return p
}

func (c Certificate) facts() []fact {
	facts := []fact{{"Certificate", c.CertificateID}, {"Issued", c.IssuedAt.String()}, {"Issuer", c.Issuer}}
	for _, f := range []fact{
		{"Tenant (our random id)", c.TenantID},
		{"Subject (keyed digest)", c.SubjectDigest},
		{"Erasure", c.ErasureID},
		{"Deletion request", c.RequestID},
	} {
		if f.Value != "" {
			facts = append(facts, f)
		}
	}
	trigger := string(c.Trigger)
	if t, ok := triggers[trigger]; ok {
		trigger += ": " + t
	}
	return append(facts, fact{"Trigger", trigger}, fact{"Requested", c.RequestedAt.String()}, fact{"Signed with key", c.KeyID})
}

var triggers = map[string]string{
	"uninstall":       "the app was uninstalled",
	"request":         "the customer asked for it",
	"probe":           "the app was found to be uninstalled",
	"retention":       "a period of the policy ended",
	"restore_replay":  "a restored backup had brought it back",
	"forge_migration": "the app moved to Forge",
}

func (c Certificate) dates() section {
	at := map[string]string{}
	for i, x := range c.Audit.Events {
		if r, fault := flatten([]byte(x.Record)); fault == nil && record(r).text("outcome") == success {
			at[record(r).text("action")] = strconv.FormatInt(c.Audit.Events[i].LogIndex, 10)
		}
	}
	log := func(action string) string { return "record " + action + " at position " + at[action] + " of the log" }
	columns := []column{{"What", 40, false}, {"When", 25, false}, {"How it is known", 35, false}}
	return section{ID: "dates", Title: "When", Columns: columns, Rows: [][]string{
		{"The erasure began; from here on the tenant answered nothing", c.StartedAt.String(), log(actionBegin)},
		{"Gone from the live service", c.DeletedLiveAt.String(), log(actionErase)},
		{"Verified: nothing remains", c.Verification.VerifiedAt.String(), log(actionVerify)},
		{"Gone from backups after", c.BackupsClearAfter.String(), "the policy's period for backups, signed by the issuer"},
	}}
}

func (c Certificate) stores() section {
	s := section{ID: "stores", Title: "What was deleted where", Columns: []column{
		{"Store", 13, false}, {"Location", 31, false}, {"Table", 26, false},
		{"Rows before", 10, true}, {"Deleted", 10, true}, {"Left", 10, true},
	}}
	if c.State == Erased {
		s.Intro = "By " + methods(c.Method) + "."
	} else {
		s.Title = "Where it was looked for"
	}
	for _, x := range c.Stores {
		s.Rows = append(s.Rows, []string{
			x.Name, x.Location, x.Table,
			strconv.FormatInt(x.RowsBefore, 10), strconv.FormatInt(x.RowsDeleted, 10), strconv.FormatInt(x.RowsAfter, 10),
		})
	}
	return s
}

// methods returns in words how data was deleted.
func methods(all []string) string {
	words := map[string]string{
		RowDelete:    "deleting rows (row_delete)",
		KeyDestroy:   "destroying the key (key_destroy)",
		BackupExpiry: "the end of the backups' period (backup_expiry)",
	}
	out := ""
	for i, m := range all {
		switch {
		case i > 0 && i == len(all)-1:
			out += " and "
		case i > 0:
			out += ", "
		}
		out += words[m]
	}
	return out
}

func (c Certificate) retained() section {
	s := section{ID: "retained", Title: "What is retained", Intro: "Each is kept on its own ground and for its own time.",
		Columns: []column{{"What", 30, false}, {"Ground", 45, false}, {"Until", 25, false}}}
	for _, r := range c.Retained {
		s.Rows = append(s.Rows, []string{r.What, r.Ground, r.Until})
	}
	if len(s.Rows) == 0 {
		s.Intro = ""
	}
	return s
}

func (c Certificate) verification() section {
	v := c.Verification
	return section{ID: "verification", Title: "Verification",
		Intro:   "Another database role than the one that deletes counted what is left.",
		Columns: []column{{"What", 30, false}, {"Value", 70, false}},
		Rows: [][]string{{"Result", v.Result}, {"When", v.VerifiedAt.String()}, {"Verifying sweep", v.SweepRunID}, {"Role", v.Role},
			{"SHA-256 of what was asked", v.PredicateDigest}}}
}

func (c Certificate) recipients() section {
	s := section{ID: "recipients", Title: "Recipients notified", Intro: c.RecipientsNote,
		Columns: []column{{"Recipient", 60, false}, {"Acknowledged", 40, false}}}
	for _, r := range c.Recipients {
		when := "not when this certificate was issued"
		if !r.AcknowledgedAt.IsZero() {
			when = r.AcknowledgedAt.String()
		}
		s.Rows = append(s.Rows, []string{r.Name, when})
	}
	return s
}

func (c Certificate) records() section {
	s := section{ID: "records", Title: "Records in the log",
		Intro:   "Each stood in the append-only log at its position, with exactly the bytes that the certificate holds.",
		Columns: []column{{"Position", 10, true}, {"Action", 18, false}, {"Outcome", 10, false}, {"When", 28, false}, {"Event", 34, false}}}
	for _, x := range c.Audit.Events {
		r, _ := flatten([]byte(x.Record))
		s.Rows = append(s.Rows, []string{strconv.FormatInt(x.LogIndex, 10), record(r).text("action"), record(r).text("outcome"),
			record(r).text("occurred_at"), x.EventID})
	}
	return s
}
