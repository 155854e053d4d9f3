package tenants

// Digest is the keyed digest under which a subject would be known here. It says
// nothing without the keys, and is what a request keeps of a subject that no tenant
// has.
func (d *Door) Digest(s Subject) ([]byte, error) {
	_, all, err := d.digests(s)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}
