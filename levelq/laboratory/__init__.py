"""What the demo and the load test share: servers and processes, a sampler, a live screen, a page of charts."""
