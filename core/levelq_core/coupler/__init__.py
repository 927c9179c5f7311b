"""The transaction: a batch of commands applied to both tables and the ledger under ordered row locks."""
