// Package auditfile is the form of an exported audit: how an event, a proof and
// the end stand in a file, and how anyone checks such a file offline with nothing
// but the log's public key.
//
// A file has one event a line, in the order of the log; then, for each run of
// positions that are not shown, one line with the hashes that stand for them
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
// In CSV the last two stand in the last cell of a row whose first is #proof or
// #checkpoint. Whatever a line shows besides is made of its record, and Verify
// makes it anew and compares: a column that disagrees is found.
//
// A file that Verify accepts proves that each record shown stood at its position
// in the log of the checkpoint, byte for byte. It does not prove recorded_at, which
// is the database's word and not part of the record, nor that an event which is not
// shown did not match the selection: that is the exporter's word too, unless the
// file shows every position.
//
// The package is pure: it formats and reads what it is given.
package auditfile
