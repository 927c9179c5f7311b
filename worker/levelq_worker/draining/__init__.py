"""A batch, from lane to COMMIT to acknowledgement."""
