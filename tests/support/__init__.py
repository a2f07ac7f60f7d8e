"""Code that several tests share: servers, processes, faults, reference implementations and test data."""
