"""Rejected commands and quarantined entries sent to their lanes once more, or dealt with otherwise."""
