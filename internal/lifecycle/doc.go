// Package lifecycle holds the words every other package shares: who asks
// (Caller), why (Reason), about whom (TenantID), for what (Field), and how it
// can fail (Kind, Fault). It does no I/O and imports nothing of this module.
//
// A value of a tenant travels as a Secret, which prints itself as "[redacted]"
// wherever it is formatted, logged or encoded.
package lifecycle
