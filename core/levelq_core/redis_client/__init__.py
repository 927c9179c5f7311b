"""NodePool to Redis: one server, Sentinels or a Cluster, from a URL."""
