"""What several tests share: servers, processes, faults, reference implementations, material."""
