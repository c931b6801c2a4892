"""The platform's storage: `paths` says where folders are, `storage` reads and writes what is in them."""
