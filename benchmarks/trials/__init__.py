"""Trials for the operator: problems planted in a system under load, found and ended with the runbook's commands."""
