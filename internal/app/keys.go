package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"trakr/internal/keyring"
	"trakr/internal/platform/config"
	"trakr/internal/store"
	"trakr/internal/store/tenants"
)

// KeySource returns where the settings keep the keyring, and what wraps it there.
func KeySource(c config.Config) keyring.Source {
	return keyring.Source{At: c.Keys.Reveal(), Wrap: c.KeysWrap,
		Server: &keyring.Vault{Token: c.KeysWrapToken, TokenFile: c.KeysWrapTokenFile}}
}

// openKeys loads the keyring. It generates one only where no older one can be missing:
// beside a database that was never used with keys.
func openKeys(ctx context.Context, cfg config.Config, db *store.DB) (keys *keyring.Keyring, generated bool, err error) {
	source := KeySource(cfg)
	if keys, err = source.Load(); !errors.Is(err, fs.ErrNotExist) {
		return keys, false, err
	}
	used, err := tenants.Bound(ctx, db)
	if err != nil {
		return nil, false, err
	}
	if used {
		return nil, false, fmt.Errorf("there is no keyring at %s, and the database was used with one; "+
			"restore that file (its values cannot be read without it)", source.At)
	}
	return source.LoadOrCreate()
}
