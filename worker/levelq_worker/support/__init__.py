"""What all of a worker's parts share: outages, back-off, stopping, the partition directory."""
