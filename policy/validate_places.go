package policy

import (
	"slices"
	"strings"

	"trakr/internal/lifecycle"
)

// subProcessors checks that each is in an existing country.
func (v *validator) subProcessors() {
	for i, s := range v.p.SubProcessors {
		v.country(entry("$.sub_processors", i)+".country", s.Country)
	}
}

// egress checks that each destination is declared once, that only the end service has
// details and an acknowledgement, and that a client key's contents are declared.
func (v *validator) egress() {
	seen := map[lifecycle.Destination]bool{}
	for i, e := range v.p.Egress {
		at := entry("$.egress", i)
		if seen[e.To] {
			v.fault(at+".to", "the destination %s is declared twice", e.To)
		}
		seen[e.To] = true
		v.country(at+".country", e.Country)
		if e.To != lifecycle.ToEndService && (len(e.Details) > 0 || e.Required) {
			v.fault(at, "details and required are for %s only", lifecycle.ToEndService)
		}
		if v.p.Releases(lifecycle.ClientKey, e.To) && !v.p.Releases(lifecycle.PrincipalUUID, e.To) && !e.CarriesWorkspace() {
			v.fault(at, "client_key is released to %s, and Bitbucket makes the workspace's uuid a part of it: "+
				"declare it in carries, word for word %q, or release principal_uuid there", e.To, CarriesWorkspace)
		}
	}
	b, ok := v.p.Destination(lifecycle.ToBitbucket)
	if (!ok || len(b.Hosts) == 0) && v.whole("$.egress", "to") && v.whole("$.egress", "hosts") {
		v.fault("$.egress", "the destination bitbucket and its hosts must be declared: every install calls it")
	}
}

// country checks that a code is officially assigned in ISO 3166-1 alpha-2.
func (v *validator) country(at, code string) {
	if len(code) != 2 || !slices.Contains(strings.Fields(countries), code) {
		v.fault(at, "%q is not a country code of ISO 3166-1 alpha-2", code)
	}
}

const countries = `
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG
CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL
GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA
LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP
NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV
SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
`
