"""The queue, from the producer's side: enqueue jobs, list them, end them, and choose their queue."""
