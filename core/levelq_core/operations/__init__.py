"""What people ask of a running system: checks, queries, verification, pruning, erasing."""
