"""What levelq costs, for the capacity model, and what more workers than cores do to it."""
