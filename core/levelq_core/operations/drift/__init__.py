"""Pairs of progress and license that are out of step: found in ranges, and repaired by a policy."""
