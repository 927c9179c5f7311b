"""The capacity model: what commands cost, as measured, and what a load would take. Arithmetic only."""
