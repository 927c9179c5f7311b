"""What operators do with a running system: check, query, verify, prune, erase."""
