// Package certificate is the Certificate of Deletion (logical): its content, how it
// is signed, how it is shown as HTML and PDF, and how anyone verifies it offline with
// nothing but the log's public key.
//
// It is about rows of a live database and about the day on which the last backup
// that may have them expires. It never claims anything about media: that is what
// NIST SP 800-88 certificates do, and on a managed disk only its owner can.
//
// # The form
//
// A certificate is one JSON object (UTF-8, at most 1 MiB) with the members of
// [Certificate] and no others. Times are UTC with six decimals, counts are plain
// integers, digests are lower-case hex, hashes of the log and the signature are
// standard base64. White space and the order of members do not matter.
//
// # The signature
//
// A leaf is a string, a number, or an empty array or object, and is named by its
// JSON Pointer (RFC 6901). The member "manifest" maps the pointer of every leaf but
// those under "/manifest" and "/signature" to the SHA-256, in hex, of the leaf's
// canonical JSON (RFC 8785). The member "signature" is the Ed25519 signature
// (RFC 8032) over
//
//	"trakr/certificate-of-deletion/v1" || 0x00 || RFC 8785 form of the manifest
//
// by the key that "key_id" names: the name and hash of the log's key (C2SP
// signed-note, without the last part). It is the key that signs the log's
// checkpoints. A signed note never has a zero byte and always ends in a newline,
// and a certificate's message has the one and not the other, so that neither
// signature can be taken for the other's.
//
// Because the manifest is signed leaf by leaf, a verifier can name the leaf that was
// changed, added, removed or moved, and not only report that one was.
//
// # The evidence
//
// "audit" has records of the log. Each comes with its exact bytes ("record"), so that
// SHA-256(0x00 || record) is its leaf, with its position ("log_index") and its audit
// path in the tree of "checkpoint" (RFC 6962, section 2.1.1). The certificate must
// agree with the records:
//
//	trigger               status_detail of the erasure.begin record
//	started_at            its occurred_at
//	deleted_live_at       occurred_at of the tenant.erase record
//	verification.result   status_detail of the erasure.verify record
//	verification.verified_at   its occurred_at
//	tenant_id             tenant_id of all three
//	erasure_id            correlation_id of all three
//	subject_digest        subject_digest of each that has one
//	recipients_notified   of one, the occurred_at of each delivery.acknowledge record
//	audit.log_indexes     the positions, in ascending order
//
// The three have the outcome success and are in this order. Where there are several
// of one action, the last counts. Other records may be beside them when they name the
// same tenant, erasure or request. A certificate that nothing was held (state
// "nothing_held") rests on an erasure.verify record alone, which names no tenant,
// has the request's id as its correlation_id, and names the subject's digest.
//
// Besides: only a clean verification makes a certificate; rows_after is zero and
// rows_deleted equals rows_before everywhere; and started_at ≤ deleted_live_at ≤
// verified_at ≤ issued_at, and deleted_live_at ≤ backups_clear_after.
//
// # Not proven
//
// The log proves that its records were in it, unchanged. The counts, the places, the
// expiry of the backups and the recipients' acknowledgements are asserted by the
// issuer's signature.
//
// # Shown to people
//
// The HTML page has the certificate's JSON in <script type="application/json"
// id="certificate">, where <, > and & are written as \u003c, \u003e and \u0026; the
// PDF has it attached as certificate.json. Both are functions of the certificate
// alone, so that a verifier of the same version renders them again and compares every
// byte: a page that differs from its certificate is found.
//
// The package is pure: it has no clock and does no I/O.
package certificate
