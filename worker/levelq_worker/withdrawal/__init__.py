"""Waiting commands taken out of their lanes: cancelled, purged, forgotten."""
