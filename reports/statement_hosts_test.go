package reports_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

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
		want   reports.Truth
		why    string
	}{
		"the declared region":                {at(nyc3), reports.True, "shows DigitalOcean, nyc3, as declared"},
		"two nodes of it":                    {at("private-"+nyc3, nyc3), reports.True, "private-" + nyc3},
		"another region":                     {at(ams3), reports.False, "shows DigitalOcean, ams3, and the policy declares DigitalOcean, nyc3"},
		"one node in another":                {at(nyc3, ams3), reports.False, "ams3"},
		"a name that tells none":             {at(custom), reports.NotVerified, custom + " (TRAKR_DATABASE_URL) shows no region"},
		"one node tells none":                {at(custom, nyc3), reports.NotVerified, "shows no region"},
		"one tells none, one another region": {at(custom, ams3), reports.False, "ams3"},
		"an undeclared address":              {at("192.0.2.2"), reports.False, "does not declare the host 192.0.2.2"},
		"an undeclared name":                 {at("db.example.net"), reports.False, "does not declare the host db.example.net"},
		"an address of the own network":      {at("10.2.3.4"), reports.NotVerified, "10.2.3.4 (TRAKR_DATABASE_URL) shows no region"},
		"a name of the own network":          {at("postgres"), reports.NotVerified, "shows no region"},
		"a socket":                           {at(""), reports.NotVerified, "a unix socket shows the service's own machine"},
		"nobody said it":                     {at(), reports.NotVerified, "has not said where"},
		"one replica did not say it":         {func(f *reports.Facts) { at(nyc3)(f); f.Silent = 1 }, reports.NotVerified, "has not said where"},
		"local, and declared elsewhere": {func(f *reports.Facts) {
			at("")(f)
			f.Observations[0].Conflict, f.Observations[0].Value = true, "unix socket"
		},
			reports.False, "its connection is: unix socket"},
		"a tunnel, and the server says it is here": {func(f *reports.Facts) { at(nyc3)(f); f.Observations[0].Conflict = true }, reports.False, "its connection is"},
		"nothing observed":                         {func(f *reports.Facts) { at(nyc3)(f); f.Observations = nil }, reports.NotVerified, "nothing could be observed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := load(t)
			f := sound(p)
			c.change(&f)
			sentence := sentenceOf(t, f, "location")
			if i := slices.IndexFunc(sentence.Checks, func(b reports.Bound) bool { return b.ID == "observed-place" }); sentence.State != c.want || sentence.Checks[i].State != c.want || !strings.Contains(sentence.Checks[i].Why, c.why) {
				t.Errorf("%s: %+v", sentence.State, sentence.Checks[i])
			}
			d := build(t, "location", f)
			state := map[reports.Truth]reports.State{reports.True: reports.Holds, reports.False: reports.Fails, reports.NotVerified: reports.CannotTell}[c.want]
			if s := d.Statements[1]; s.State != state || !strings.Contains(s.Why, c.why) || (d.Verdict == reports.Holds) != (state == reports.Holds) {
				t.Errorf("the location report: %s, %+v", d.Verdict, s)
			}
			var sheet reports.Sheet
			b, err := reports.SheetOf(p, f).Render(reports.JSON)
			if err != nil || json.Unmarshal(b, &sheet) != nil {
				t.Fatal(err)
			}
			want := map[reports.Truth][]string{reports.True: {"United States"}, reports.False: {"United States", "Not known: the database is not where it is declared"},
				reports.NotVerified: {"United States", "Not verified: nothing observed shows where the database is"}}[c.want]
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
		kept, location, use, other reports.Truth
	}{
		"it runs":              {func(*reports.Facts) {}, reports.True, reports.True, reports.True, reports.True},
		"none runs":            {func(f *reports.Facts) { f.Services, f.Hosts = 0, nil }, unknown, unknown, unknown, reports.True},
		"by another policy":    {func(f *reports.Facts) { f.OtherPolicy = 1 }, unknown, unknown, unknown, reports.True},
		"one of two":           {func(f *reports.Facts) { f.Services, f.OtherPolicy = 2, 1 }, unknown, unknown, unknown, reports.True},
		"one says nothing":     {func(f *reports.Facts) { f.Services, f.Silent = 2, 1 }, reports.True, unknown, unknown, reports.True},
		"it says what is true": {func(f *reports.Facts) { f.OtherPolicy, f.Hosts[0].Declared = 1, false }, unknown, unknown, no, reports.True},
		"an undeclared database": {func(f *reports.Facts) {
			f.Hosts = append(f.Hosts, reports.HostFacts{Setting: "TRAKR_DATABASE_URL", Host: "db.example.net", Database: true})
			at("db.example.net")(f)
		}, reports.True, no, no, reports.True},
	} {
		p := load(t)
		f := sound(p)
		c.change(&f)
		for id, want := range map[string]reports.Truth{"kept": c.kept, "location": c.location, "use": c.use, "access": c.other, "deleted": c.kept} {
			if s := sentenceOf(t, f, id); s.State != want {
				t.Errorf("%s: %s is %s, want %s: %+v", name, id, s.State, want, s.Checks)
			}
		}
	}
}
