package config_test

import (
	"strings"
	"testing"

	"trakr/internal/platform/config"
)

func TestNothingSetGivesAServiceForThisMachineOnly(t *testing.T) {
	c, err := config.Load(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:8080" || c.AdminListen != "127.0.0.1:8081" || c.BaseURL != "http://127.0.0.1:8080" ||
		c.BitbucketAPIURL != config.BitbucketAPI || c.DevSkipProof || !c.DatabaseURL.Empty() {
		t.Errorf("defaults: %+v", c)
	}
	dev, err := config.Load(nil, true)
	if err != nil || dev.BitbucketAPIURL != config.DevBitbucketAPI || dev.DevSkipProof {
		t.Errorf("--dev: %+v, %v", dev, err)
	}
}

func TestAllFaultsAreReportedTogetherAndNoValueIsRepeated(t *testing.T) {
	_, err := config.Load([]string{
		"TRAKR_LISTEN=marker-listen", "TRAKR_BASE_URL=http://marker.example.com", "TRAKR_DATABASE_URL=postgres://u:marker@db.example.com/t",
		"TRAKR_LOG_LEVEL=marker-level", "TRAKR_TRUSTED_PROXIES=marker-net", "TRAKR_BASEURL=marker", "TRAKR_FORGE_APP_ID=marker", "PATH=/bin",
	}, false)
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"7 fault(s)", "TRAKR_LISTEN must be host:port", "TRAKR_BASE_URL must be https", "TRAKR_DATABASE_URL must set sslmode",
		"TRAKR_LOG_LEVEL must be debug", "TRAKR_TRUSTED_PROXIES must be networks", "TRAKR_BASEURL is not a setting", "TRAKR_FORGE_APP_ID belongs to a later version"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "marker") {
		t.Errorf("a value is repeated:\n%v", err)
	}
}

func TestProofCannotBeSwitchedOffOnAPublicAddress(t *testing.T) {
	if _, err := config.Load([]string{"TRAKR_DEV_SKIP_PROOF=true", "TRAKR_BASE_URL=https://trakr.example.com"}, true); err == nil {
		t.Error("taken")
	}
	if _, err := config.Load([]string{"TRAKR_DEV_SKIP_PROOF=true"}, true); err != nil {
		t.Error(err)
	}
}

func TestTheWebhookIsWholeOrNotThereAndItsSecretIsNotRepeated(t *testing.T) {
	const secret = "TRAKR_WEBHOOK_SECRET=whsec_bWFya2VybWFya2VybWFya2VybWFya2VybWFya2Vy"
	for _, c := range []struct {
		environ []string
		want    string // "" is taken
	}{
		{[]string{"TRAKR_WEBHOOK_URL=https://hooks.example.com/x", secret}, ""},
		{[]string{"TRAKR_WEBHOOK_URL=http://127.0.0.1:9/x", secret}, ""},
		{[]string{"TRAKR_WEBHOOK_URL=http://marker.example.com/x", secret}, "TRAKR_WEBHOOK_URL must be an https URL"},
		{[]string{"TRAKR_WEBHOOK_URL=marker", secret}, "TRAKR_WEBHOOK_URL must be an https URL"},
		{[]string{"TRAKR_WEBHOOK_URL=https://marker.example.com/x"}, "set both or neither"},
		{[]string{secret}, "set both or neither"},
		{[]string{"TRAKR_WEBHOOK_URL=https://hooks.example.com/x", "TRAKR_WEBHOOK_SECRET=whsec_bWFya2Vy"}, "24 to 64 random bytes"},
		{[]string{"TRAKR_WEBHOOK_URL=https://hooks.example.com/x", "TRAKR_WEBHOOK_SECRET=bWFya2VybWFya2VybWFya2VybWFya2VybWFya2Vy"}, "must be whsec_"},
	} {
		_, err := config.Load(c.environ, false)
		switch {
		case (err == nil) != (c.want == ""), err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%v: %v", c.environ, err)
		case err != nil && (strings.Contains(err.Error(), "marker") || strings.Contains(err.Error(), "bWFya2Vy")):
			t.Errorf("a value is repeated: %v", err)
		}
	}
}

func TestDatabaseConnectionsThatLeaveTheMachineAreEncrypted(t *testing.T) {
	for dsn, ok := range map[string]bool{
		"postgres://u:p@127.0.0.1/t": true, "postgres://u:p@/t?host=/run/pg": true, "postgresql://u:p@db.example.com/t?sslmode=verify-full": true,
		"postgres://u:p@db.example.com/t?sslmode=require": true, "postgres://u:p@db.example.com/t": false,
		"postgres://u:p@db.example.com/t?sslmode=prefer": false, "mysql://u:p@127.0.0.1/t": false, "host=db": false,
	} {
		if _, err := config.Load([]string{"TRAKR_DATABASE_URL=" + dsn}, false); (err == nil) != ok {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}
