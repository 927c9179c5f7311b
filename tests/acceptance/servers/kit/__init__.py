"""What the tests of server faults share: servers of their own, worker processes, producers that go on, the checker.

In a scene traffic flows all the time. Faults come one after the other, each is repaired, and what was sent until
then is decided before the next. At the end the checker looks at all that was sent and at all that was applied.
"""
