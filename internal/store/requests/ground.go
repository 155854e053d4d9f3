package requests

// Ground is why a request is denied.
type Ground string

// The grounds.
const (
	IdentityNotProven   Ground = "identity_not_proven"  // GDPR Art. 12(6)
	NotEntitled         Ground = "not_entitled"         // the asking person may not decide about this workspace
	ManifestlyUnfounded Ground = "manifestly_unfounded" // Art. 12(5)
	LegalObligation     Ground = "legal_obligation"     // Art. 17(3)(b)
	LegalClaim          Ground = "legal_claim"          // Art. 17(3)(e)
)

// Grounds lists every ground.
func Grounds() []Ground {
	return []Ground{IdentityNotProven, NotEntitled, ManifestlyUnfounded, LegalObligation, LegalClaim}
}
