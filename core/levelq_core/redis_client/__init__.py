"""Connections to Redis from a URL: one server, Sentinels or a Cluster."""
