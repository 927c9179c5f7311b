"""The ways of doing it, each with its workers: what they are asked is the same, and so is the transaction of a job."""
