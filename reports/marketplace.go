package reports

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"trakr/internal/check"
	"trakr/policy"
)

// Sheet is Atlassian Marketplace's Privacy & Security document, in the form that its PUT
// accepts: https://developer.atlassian.com/platform/marketplace/rest/v2/. What software can
// know comes from the live state, and where that is not known the sheet states the worse
// case; what lawyers decide comes from the policy.
type Sheet struct {
	App sheetApp `json:"appTrustInformation"`
}

type sheetApp struct {
	Data      sheetData      `json:"dataAccessAndStorage"`
	Third     sheetThird     `json:"thirdPartyInformation"`
	Logs      sheetLogs      `json:"logDetails"`
	Residency sheetResidency `json:"dataResidency"`
	Retention sheetRetention `json:"dataRetention"`
	Privacy   sheetPrivacy   `json:"privacy"`
	Security  sheetSecurity  `json:"security"`
}

type sheetData struct {
	Same      bool     `json:"isSameDataProcessedAndStored"`
	Processes bool     `json:"appProcessEUDOutsideAtlassian"`
	Accessed  []string `json:"typesOfDataAccessed"`
	Stores    bool     `json:"appStoresEUDOutsideAtlassian"`
	Stored    []string `json:"typesOfDataStored"`
}

type sheetThird struct {
	Shared     bool         `json:"isEndUserDataShared"`
	Processors string       `json:"dataSubProcessors,omitempty"`
	Details    []sheetParty `json:"thirdPartyDetails,omitempty"`
}

type sheetParty struct {
	Name      string   `json:"name"`
	Link      string   `json:"link"`
	Purpose   string   `json:"purpose"`
	Countries []string `json:"thirdPartyCountries"`
}

type sheetLogs struct {
	EndUserData bool `json:"logEndUserData"`
	Outside     bool `json:"logProcessAndOrStoreEUDOutsideAtlassian"`
	Shared      bool `json:"logEUDShareWithThirdParty"`
	Integral    bool `json:"logsIntegralForAppFunctionality"`
}

type sheetResidency struct {
	Supported string   `json:"isDataResidencySupported"`
	Countries []string `json:"countriesWhereEndUserDataStored"`
	Migration bool     `json:"realmMigrationSupported"`
	InScope   []string `json:"inScopeDataTypes"`
}

type sheetRetention struct {
	Supported  bool       `json:"isDataRetentionSupported"`
	Days       *sheetDays `json:"retentionDurationInDays,omitempty"`
	Custom     bool       `json:"isCustomRetentionPeriodAllowed"`
	Indefinite bool       `json:"isRetentionDurationIndefinite"`
}

type sheetDays struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

type sheetPrivacy struct {
	Techniques struct {
		Supported bool     `json:"arePrivacyEnhancingTechniquesSupported"`
		List      []string `json:"privacyEnhancingTechniquesSupported"`
	} `json:"privacyEnhancingTechniques"`
	GDPR struct {
		Controller struct {
			Is string `json:"isAppDataController"`
		} `json:"dataController"`
		Processor struct {
			Is    string   `json:"isAppDataProcessor"`
			Types []string `json:"endUserDataTypes"`
		} `json:"dataProcessor"`
		Transfer struct {
			Outside   bool `json:"isEndUserDataTransferredOutsideEEA"`
			Mechanism bool `json:"isTransferComplianceMechanismsAdhered"`
		} `json:"dataTransfer"`
	} `json:"gdpr"`
	CCPA struct {
		Business struct {
			Is string `json:"isAppBusiness"`
		} `json:"business"`
		Provider struct {
			Is    string   `json:"isAppServiceProvider"`
			Types []string `json:"endUserDataTypes"`
		} `json:"serviceProvider"`
	} `json:"ccpa"`
	DPA struct {
		Supported bool `json:"isDPASupported"`
	} `json:"dataProcessingAgreement"`
}

type sheetSecurity struct {
	DiskEncryption bool   `json:"isDiskEncryptionSupported"`
	PATs           bool   `json:"requiresUsersToProvidePATs"`
	Contact        string `json:"securityContact"`
	Policies       string `json:"publicSecurityPoliciesLink"`
	Permissions    string `json:"permissionsJustification"`
}

// SheetOf derives the sheet from the policy and the live state.
func SheetOf(p *policy.Policy, f Facts) Sheet {
	var s Sheet
	types := storedTypes(p, f)
	s.App.Data = sheetData{Same: true, Processes: true, Accessed: types, Stores: true, Stored: types}
	s.App.Third = thirdParties(p, f)
	// The logs are declared clean only if a recent pass of the sweep found nothing in them.
	clean := runCheck("minimisation", p, f).State == check.Pass
	s.App.Logs = sheetLogs{EndUserData: !clean, Outside: !clean, Shared: !clean}
	s.App.Residency = sheetResidency{Supported: "APP_DOES_NOT_SUPPORT_DR", Countries: storedCountries(p, f), InScope: []string{}}
	s.App.Retention = retentionAfterUninstall(p, f)
	m := p.Marketplace
	s.App.Privacy.Techniques.List = []string{}
	s.App.Privacy.GDPR.Controller.Is = m.Controller
	s.App.Privacy.GDPR.Processor.Is, s.App.Privacy.GDPR.Processor.Types = m.Processor, types
	s.App.Privacy.GDPR.Transfer.Outside, s.App.Privacy.GDPR.Transfer.Mechanism = m.OutsideEEA, m.Transfer != ""
	s.App.Privacy.CCPA.Business.Is = m.Business
	s.App.Privacy.CCPA.Provider.Is, s.App.Privacy.CCPA.Provider.Types = m.ServiceProvider, types
	s.App.Privacy.DPA.Supported = m.DPA
	s.App.Security = sheetSecurity{
		DiskEncryption: m.DiskEncryption, Contact: m.SecurityContact, Policies: m.SecurityPolicies, Permissions: permissions(p, f),
	}
	return s
}

// storedTypes returns the kept fields, and everything else that the database contains.
func storedTypes(p *policy.Policy, f Facts) []string {
	var out []string
	for _, x := range p.Fields {
		if !x.Off {
			out = append(out, x.Label)
		}
	}
	for _, c := range p.CustomerColumns() {
		out = append(out, c.Phrase())
	}
	for _, h := range f.SwitchedOff {
		if r, ok := p.Field(h.Field); ok && r.Off && h.Rows > 0 {
			out = append(out, r.Label+" (switched off, and still stored)")
		}
	}
	for _, t := range f.Tables {
		if !t.Declared {
			out = append(out, "Not declared: the table "+t.Name)
		}
		for _, c := range t.Undeclared {
			out = append(out, "Not declared: the column "+t.Name+"."+c)
		}
	}
	return out
}

func thirdParties(p *policy.Policy, f Facts) sheetThird {
	var out sheetThird
	var names []string
	for _, x := range p.SubProcessors {
		country := policy.Country(x.Country)
		names = append(names, x.Name+" ("+country+")")
		out.Details = append(out.Details, sheetParty{
			Name: x.Name, Link: x.Link, Countries: []string{country},
			Purpose: strings.TrimSuffix(x.Purpose, ".") + ", in " + cities(p, x.Name),
		})
	}
	undeclared := func(name, purpose string) {
		out.Details = append(out.Details, sheetParty{Name: name, Link: name, Purpose: purpose, Countries: []string{"Not declared"}})
	}
	for _, h := range f.Hosts {
		if !h.Declared {
			undeclared(h.Host, "Not declared: the setting "+h.Setting+" names it")
		}
	}
	for _, d := range f.Disclosures {
		if !declaredRecipient(p, d.To, d.Recipient) || !d.released(p) {
			undeclared(d.Recipient, "Not declared: received the field "+d.Field)
		}
	}
	out.Processors, out.Shared = strings.Join(names, ", "), len(out.Details) > 0
	return out
}

// cities returns the cities of a sub-processor's stores: the sheet has no field for a city.
func cities(p *policy.Policy, name string) string {
	var list []string
	for _, s := range p.Stores {
		if at := s.City + ", " + policy.Country(s.Country); s.SubProcessor == name && !slices.Contains(list, at) {
			list = append(list, at)
		}
	}
	return policy.And(list)
}

func storedCountries(p *policy.Policy, f Facts) []string {
	var out []string
	for _, s := range p.Stores {
		if c := policy.Country(s.Country); s.HoldsFields && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return append(out, placeCaveat(p, f)...)
}

// retentionAfterUninstall returns how long data exists after the uninstall: as long as
// the backups, and the delay of late erasures.
func retentionAfterUninstall(p *policy.Policy, f Facts) sheetRetention {
	longest := p.BackupWindow().Duration()
	if f.Erasures.LateLately > 0 {
		longest += max(f.Erasures.LongestLag, 24*time.Hour)
	}
	if nothingRemains(f).State == check.Fail {
		return sheetRetention{Supported: true, Indefinite: true} // rows of erased tenants are still stored
	}
	if longest == 0 {
		return sheetRetention{}
	}
	return sheetRetention{Supported: true, Days: &sheetDays{Max: int(math.Ceil(longest.Hours() / 24))}}
}

func permissions(p *policy.Policy, f Facts) string {
	var out []string
	for _, s := range p.App.Scopes {
		why := s.Why
		for _, x := range f.Scopes {
			if x.Name == s.Name && x.NeededBy == "" {
				why = "no call needs it."
			}
		}
		out = append(out, s.Name+": "+why)
	}
	for _, x := range f.Scopes {
		if !slices.ContainsFunc(p.App.Scopes, func(s policy.Scope) bool { return s.Name == x.Name }) {
			out = append(out, x.Name+": not declared.")
		}
	}
	return strings.Join(out, " ")
}

// Render implements Report.
func (s Sheet) Render(f Format) ([]byte, error) {
	if f != JSON {
		return nil, errors.New("the Marketplace sheet is available as json")
	}
	return indented(s)
}

// Difference is one place where a published sheet differs from the derived one.
type Difference struct {
	Path      string `json:"path"`      // dotted, below appTrustInformation
	Published string `json:"published"` // JSON; "" when it is left out, unlike an empty list or text
	Derived   string `json:"derived"`   // likewise
}

// CompareSheets returns where a published sheet and a derived one differ, in the order of
// paths: what only one of them has is a difference like any other. Each may be in the form
// that GET returns (bare) or that PUT accepts. The order of a list does not matter, the
// number of equal entries does; "TRUE" equals true. A value that is left out equals an
// empty one and a box that is not ticked.
func CompareSheets(published, derived []byte) ([]Difference, error) {
	theirs, err := bareSheet(published)
	if err != nil {
		return nil, err
	}
	ours, err := bareSheet(derived)
	if err != nil {
		return nil, err
	}
	delete(theirs, "properties") // the form's own state, which Marketplace adds
	out := []Difference{}
	compare("", theirs, ours, &out)
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

func bareSheet(b []byte) (map[string]any, error) {
	var sheet map[string]any
	if err := json.Unmarshal(b, &sheet); err != nil {
		return nil, errors.New("it is not a JSON object")
	}
	if inner, ok := sheet["appTrustInformation"].(map[string]any); ok {
		sheet = inner
	}
	if _, ok := sheet["dataAccessAndStorage"]; !ok {
		return nil, errors.New("it is not a Privacy & Security document: it has no dataAccessAndStorage")
	}
	return sheet, nil
}

// compare appends the differences between two values at a path.
func compare(path string, theirs, ours any, out *[]Difference) {
	t, isT := theirs.(map[string]any)
	o, isO := ours.(map[string]any)
	switch {
	case isT && isO:
		for k := range union(t, o) {
			compare(strings.TrimPrefix(path+"."+k, "."), t[k], o[k], out)
		}
		return
	case theirs == nil && isEmpty(ours), ours == nil && isEmpty(theirs):
		return
	}
	if theirs == nil || ours == nil || asJSON(normalized(theirs)) != asJSON(normalized(ours)) {
		*out = append(*out, Difference{path, asJSON(theirs), asJSON(ours)})
	}
}

func union(a, b map[string]any) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// isEmpty reports whether a value means the same as one that is left out.
func isEmpty(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case bool:
		return !x
	case string:
		return x == ""
	case []any:
		return len(x) == 0
	case map[string]any:
		for _, y := range x {
			if !isEmpty(y) {
				return false
			}
		}
		return true
	}
	return false
}

// normalized returns a value in a form in which equal meanings are equal.
func normalized(v any) any {
	switch x := v.(type) {
	case string:
		switch strings.ToLower(x) {
		case "true":
			return true
		case "false":
			return false
		}
	case []any:
		parts := make([]string, len(x))
		for i, e := range x {
			parts[i] = asJSON(normalized(e))
		}
		slices.Sort(parts)
		return parts
	case map[string]any:
		out := map[string]any{}
		for k, y := range x {
			if !isEmpty(y) {
				out[k] = normalized(y)
			}
		}
		return out
	}
	return v
}

func asJSON(v any) string {
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
