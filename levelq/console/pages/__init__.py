"""One module per page. What they show are the readings of levelq_core.operations.readings."""
