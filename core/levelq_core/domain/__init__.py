"""What levelq is about, without I/O or a clock: commands, the catalog, the rules, outcomes, the wire format."""
