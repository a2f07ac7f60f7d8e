"""From a job's text to its stream: planning, scheduling on the engine, publishing, following the reader."""
