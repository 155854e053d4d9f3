package guard

// constraints lists what each table makes sure of by itself, the months of the audit
// apart: constraints and unique indexes by name, and the columns that are always
// filled, each with the beginning of a SHA-256 over its definition. The test that
// prints the digests of functions prints these lines anew.
var constraints = []struct {
	table string
	has   []string
}{}
