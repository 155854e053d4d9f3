package reports_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"trakr/internal/check"
	"trakr/reports"
)

const (
	nyc3   = "db-postgresql-nyc3-12345-do-user-1234567-0.c.db.ondigitalocean.com"
	ams3   = "private-db-postgresql-ams3-49623-do-user-7844381-0.b.db.ondigitalocean.com"
	custom = "customers-do-user-1234567-0.c.db.ondigitalocean.com"
)

func at(hosts ...string) func(*reports.Facts) {
	return func(f *reports.Facts) {
		f.Databases = nil
		for _, h := range hosts {
			f.Databases = append(f.Databases, reports.HostFacts{Setting: "TRAKR_DATABASE_URL", Host: h, Declared: h != "192.0.2.2" && h != "db.example.net", Database: true})
		}
	}
}

// The place of the database is true only where its host shows it. The sentence, the
// location report and the sheet say the same.
func TestThePlaceOfTheDatabaseIsWhatItsHostShows(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*reports.Facts)
		want   check.State
		why    string
	}{
		"the declared region":                {at(nyc3), check.Pass, "shows DigitalOcean, nyc3, as declared"},
		"two nodes of it":                    {at("private-"+nyc3, nyc3), check.Pass, "private-" + nyc3},
		"another region":                     {at(ams3), check.Fail, "shows DigitalOcean, ams3, and the policy declares DigitalOcean, nyc3"},
		"one node in another":                {at(nyc3, ams3), check.Fail, "ams3"},
		"a name that tells none":             {at(custom), check.Unknown, custom + " (TRAKR_DATABASE_URL) shows no region"},
		"one node tells none":                {at(custom, nyc3), check.Unknown, "shows no region"},
		"one tells none, one another region": {at(custom, ams3), check.Fail, "ams3"},
		"an undeclared address":              {at("192.0.2.2"), check.Fail, "does not declare the host 192.0.2.2"},
		"an undeclared name":                 {at("db.example.net"), check.Fail, "does not declare the host db.example.net"},
		"an address of the own network":      {at("10.2.3.4"), check.Unknown, "10.2.3.4 (TRAKR_DATABASE_URL) shows no region"},
		"a name of the own network":          {at("postgres"), check.Unknown, "shows no region"},
		"a socket":                           {at(""), check.Unknown, "a unix socket shows the service's own machine"},
		"nobody said it":                     {at(), check.Unknown, "has not reported where"},
		"one replica did not say it":         {func(f *reports.Facts) { at(nyc3)(f); f.Silent = 1 }, check.Unknown, "has not reported where"},
		"local, and declared elsewhere": {func(f *reports.Facts) {
			at("")(f)
			f.Observations[0].Conflict, f.Observations[0].Value = true, "unix socket"
		},
			check.Fail, "its connection is: unix socket"},
		"a tunnel, and the server says it is here": {func(f *reports.Facts) { at(nyc3)(f); f.Observations[0].Conflict = true }, check.Fail, "its connection is"},
		"nothing observed":                         {func(f *reports.Facts) { at(nyc3)(f); f.Observations = nil }, check.Unknown, "nothing could be observed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := load(t)
			f := sound(p)
			c.change(&f)
			sentence := sentenceOf(t, f, "location")
			if i := slices.IndexFunc(sentence.Checks, func(b reports.SentenceCheck) bool { return b.ID == "observed-place" }); sentence.State != c.want || sentence.Checks[i].State != c.want || !strings.Contains(sentence.Checks[i].Evidence, c.why) {
				t.Errorf("%s: %+v", sentence.State, sentence.Checks[i])
			}
			d := build(t, "location", f)
			if s := d.Statements[1]; s.State != c.want || !strings.Contains(s.Evidence, c.why) || (d.Verdict == check.Pass) != (c.want == check.Pass) {
				t.Errorf("the location report: %s, %+v", d.Verdict, s)
			}
			var sheet reports.Sheet
			b, err := reports.SheetOf(p, f).Render(reports.JSON)
			if err != nil || json.Unmarshal(b, &sheet) != nil {
				t.Fatal(err)
			}
			want := map[check.State][]string{check.Pass: {"United States"}, check.Fail: {"United States", "Not known: the database is not where it is declared"},
				check.Unknown: {"United States", "Not verified: nothing observed shows where the database is"}}[c.want]
			if got := sheet.App.Residency.Countries; !slices.Equal(got, want) {
				t.Errorf("the sheet: %q, want %q", got, want)
			}
		})
	}
}

func sentenceOf(t *testing.T, f reports.Facts, id string) reports.Sentence {
	t.Helper()
	s := reports.SecurityStatementOf(load(t), sentences(t), f, "v0.1.0").Sentences
	i := slices.IndexFunc(s, func(x reports.Sentence) bool { return x.ID == id })
	return s[i]
}

// Who asks is not who runs: what no running service has said is not true.
func TestWhatNoRunningServiceSaidIsNotTrue(t *testing.T) {
	for name, c := range map[string]struct {
		change                     func(*reports.Facts)
		kept, location, use, other check.State
	}{
		"it runs":              {func(*reports.Facts) {}, check.Pass, check.Pass, check.Pass, check.Pass},
		"none runs":            {func(f *reports.Facts) { f.Instances, f.Hosts = 0, nil }, unknown, unknown, unknown, check.Pass},
		"by another policy":    {func(f *reports.Facts) { f.OtherPolicy = 1 }, unknown, unknown, unknown, check.Pass},
		"one of two":           {func(f *reports.Facts) { f.Instances, f.OtherPolicy = 2, 1 }, unknown, unknown, unknown, check.Pass},
		"one says nothing":     {func(f *reports.Facts) { f.Instances, f.Silent = 2, 1 }, check.Pass, unknown, unknown, check.Pass},
		"it says what is true": {func(f *reports.Facts) { f.OtherPolicy, f.Hosts[0].Declared = 1, false }, unknown, unknown, no, check.Pass},
		"an undeclared database": {func(f *reports.Facts) {
			f.Hosts = append(f.Hosts, reports.HostFacts{Setting: "TRAKR_DATABASE_URL", Host: "db.example.net", Database: true})
			at("db.example.net")(f)
		}, check.Pass, no, no, check.Pass},
	} {
		p := load(t)
		f := sound(p)
		c.change(&f)
		for id, want := range map[string]check.State{"kept": c.kept, "location": c.location, "use": c.use, "access": c.other, "deleted": c.kept} {
			if s := sentenceOf(t, f, id); s.State != want {
				t.Errorf("%s: %s is %s, want %s: %+v", name, id, s.State, want, s.Checks)
			}
		}
	}
}
