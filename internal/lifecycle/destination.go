package lifecycle

// Destination is a role of a system that the service sends data to. The policy
// declares its hosts.
type Destination string

// The destinations.
const (
	ToBitbucket   Destination = "bitbucket"   // Bitbucket's API, called with the tenant's own secret
	ToEndService  Destination = "end-service" // Trakr's own service behind this one
	ToFindings    Destination = "findings"    // the operator's endpoint for findings
	ToCheckpoints Destination = "checkpoints" // an independent archive of the audit's checkpoints
	ToLedger      Destination = "ledger"      // an erasure ledger that is not a file
	ToTelemetry   Destination = "telemetry"   // the collector of traces, metrics and logs
	ToKeys        Destination = "keys"        // the service that unwraps the keyring
	ToProxy       Destination = "proxy"       // the HTTP proxy between the service and the others
)

// Destinations lists every destination.
func Destinations() []Destination {
	return []Destination{ToBitbucket, ToEndService, ToFindings, ToCheckpoints, ToLedger, ToTelemetry, ToKeys, ToProxy}
}
