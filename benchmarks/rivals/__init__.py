"""The rivals, each with its workers: all get the same commands, and the same transaction per job."""
