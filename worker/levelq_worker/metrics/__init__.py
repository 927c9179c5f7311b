"""Metrics of worker processes for Prometheus: what they count, and the port that serves it."""
