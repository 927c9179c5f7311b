"""The nemesis: real workers and producers, random faults from a seed, then the checker. `make chaos SECONDS=60 SEED=7`.

Read `running.run` for the course of it, `faults.FAULTS` for what is done to whom, `traffic` for what goes on
meanwhile. A run is repeatable as far as its seed reaches: the same faults in the same order with the same
durations; when exactly they hit is the machine's affair.
"""
