"""`levelq loadtest`: simulated users on a schedule drawn beforehand, verified, and an HTML report."""
