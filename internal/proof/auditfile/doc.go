// Package auditfile is the form of an exported audit: how a file represents events,
// proofs and its end, and how anyone verifies such a file offline with nothing but
// the log's public key.
//
// A file has one event a line, in the order of the log; then, for each run of
// positions that are not shown, one line with the hashes that represent them
// (merkle.Prover.Gap); and last the line of the checkpoint. Every line of an event
// carries its position, its leaf hash and the exact record that was hashed, so
// that SHA-256(0x00 || record) is the leaf (RFC 6962, section 2.1). Lines end with
// LF, in CSV with CRLF; the whole may be gzip.
//
//	ndjson  {"log_index":0,"recorded_at":"…","leaf":"…",<the record's own members>}
//	csv     log_index, the columns, leaf, and the record in the last cell
//	ocsf    OCSF 1.8, with log_index, recorded_at and leaf in "unmapped" and the record in "raw_data"
//	        {"trakr_proof":{"from":1,"to":9,"hashes":["…"]}}
//	        {"trakr_checkpoint":{"note":"…",…}}
//
// In CSV the last two are in the last cell of a row whose first is #proof or
// #checkpoint. Everything else that a line shows is derived from its record, and
// Verify derives it again and compares: a column that disagrees is found.
//
// A file that Verify accepts proves that each record shown was at its position in
// the log of the checkpoint, byte for byte. It does not prove recorded_at, which
// the database asserts and which is not part of the record, nor that an event which
// is not shown did not match the selection: the exporter asserts that, unless the
// file shows every position.
//
// The package is pure: it formats and reads what it is given.
package auditfile
