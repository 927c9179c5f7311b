"""The migrations that create levelq's tables."""
