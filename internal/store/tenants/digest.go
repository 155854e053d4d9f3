package tenants

import "trakr/internal/keyring"

// Digests are the keyed digests under which a subject would be known here, that of the
// newest key first. They say nothing without the keys, and are what a request keeps of
// a subject that no tenant has.
func (d *Door) Digests(s Subject) ([]keyring.Digest, error) {
	_, all, err := d.digests(s)
	return all, err
}
