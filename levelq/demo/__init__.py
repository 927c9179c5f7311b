"""`levelq demo`: a load test with a killed worker, on servers of its own, verified twice."""
