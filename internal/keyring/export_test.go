package keyring

// InMemory is inMemory, for tests: not every machine lets them write there.
var InMemory = inMemory
