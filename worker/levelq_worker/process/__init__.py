"""Worker processes: how they start, are supervised and end."""
