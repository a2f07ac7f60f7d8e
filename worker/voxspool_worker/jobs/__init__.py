"""Values that all parts of a worker share about a job: its execution and its cancellation."""
