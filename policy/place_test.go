package policy_test

import (
	"testing"

	"trakr/policy"
)

func TestOnlyTheProvidersOwnNamesTellARegion(t *testing.T) {
	for host, region := range map[string]string{
		"db-postgresql-nyc3-12345-do-user-1234567-0.c.db.ondigitalocean.com":         "nyc3",
		"private-db-postgresql-ams3-49623-do-user-7844381-0.b.db.ondigitalocean.com": "ams3",
		"DB-PostgreSQL-fra1-1-do-user-1-0.db.ondigitalocean.com.":                    "fra1",

		"nyc3-do-user-1234567-0.c.db.ondigitalocean.com":                             "", // a customer's own name of a cluster
		"db-postgresql-nyc3-12345-do-user-1234567-0.c.db.ondigitalocean.com.example": "",
		"x.db-postgresql-nyc3-12345-do-user-1234567-0.c.db.ondigitalocean.com":       "",
		"db-postgresql-nyc3-12345-do-user-1234567-0.c.d.db.ondigitalocean.com":       "",
		"db-mysql-nyc3-12345-do-user-1234567-0.c.db.ondigitalocean.com":              "",
		"db-postgresql-nyc3-12345-do-user-1234567-0xcxdb.ondigitalocean.com":         "",
		"db-postgresql-newyork-12345-do-user-1234567-0.c.db.ondigitalocean.com":      "",
		"192.0.2.2": "", "10.1.2.3": "", "::1": "", "": "", "localhost": "", "nyc3": "", "nyc3.internal": "",
	} {
		got, ok := policy.PlaceOf(host)
		if got.Region != region || ok != (region != "") || (ok && got.Provider != "DigitalOcean") {
			t.Errorf("%s: %+v %v", host, got, ok)
		}
	}
}

func TestADatabaseIsReachedAtDeclaredHostsAndInTheOwnNetwork(t *testing.T) {
	p, err := policy.Default()
	if err != nil {
		t.Fatal(err)
	}
	for host, ok := range map[string]bool{
		"": true, "localhost": true, "127.0.0.2": true, "::1": true, "10.2.3.4": true, "fd00::1": true, "postgres": true, "trakr-db.prod.svc.cluster.local": true,
		"DB-1.db.ondigitalocean.com.": true,
		"db.ondigitalocean.com":       false, "xdb.ondigitalocean.com": false, "192.0.2.2": false, "8.8.8.8": false, "2001:db8::1": false, "db.example.net": false,
	} {
		if p.DatabaseHost(host) != ok {
			t.Errorf("%q: %v", host, !ok)
		}
	}
	if s, ok := p.DatabaseAt("db-1.db.ondigitalocean.com"); !ok || s.Name != "database" {
		t.Errorf("%q %v", s.Name, ok)
	}
	if s, ok := p.DatabaseAt("10.2.3.4"); ok {
		t.Errorf("an address that needs no mention is declared by %s", s.Name)
	}
}
