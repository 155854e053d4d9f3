// Package merkle makes an append-only log tamper evident. With one signed checkpoint,
// anyone can check later that the log still has every event it had then, at the same
// position and byte for byte.
//
// The log is the Merkle tree of RFC 6962, section 2.1, over the exact bytes of
// each event, as golang.org/x/mod/sumdb/tlog computes it. The parts fit like
// this:
//
//   - [LeafHash] turns a record into a leaf. [Tree] is the right edge of the
//     log: [Tree.Append] takes leaves and returns the [Tile] values they
//     completed, [Tree.Root] is what a checkpoint signs. A writer works on a
//     [Tree.Clone] and keeps it only once its transaction is committed.
//   - The store keeps every leaf hash and every full tile, both insert-only,
//     and gives them back through [Reader]. [Restore] rebuilds a Tree from them
//     for any size the log ever had.
//   - A [Prover] answers for one tree: that a leaf is in it, that an older tree
//     is its beginning, and which hashes represent the leaves an export left
//     out. [VerifyInclusion], [VerifyConsistency] and [Slice] check the answers
//     offline, with nothing but the checkpoint.
//   - A [Checkpoint] is the signed statement of size and root, in the form of
//     C2SP tlog-checkpoint. [Sign] makes it and [Open] accepts it.
//
// The package promises that a Reader is never trusted: what it returns must
// hash to the root it is asked about, or the call ends in [ErrInconsistent]. A
// wrong proof is not returned.
//
// It does no I/O but through Reader, keeps no keys and knows no clock. It does
// not prove that an export's selection is complete: a Slice proves that the
// leaves shown are where they claim, not that those left out do not match a
// filter. It cannot see a tail cut off before any checkpoint of it left the
// machine, nor two logs signed with one key and shown to different people; for
// both, checkpoints must be kept elsewhere and compared with VerifyConsistency.
package merkle
