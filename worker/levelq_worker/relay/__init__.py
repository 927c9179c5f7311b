"""From the outbox to the lanes, and changes of the shard count."""
