"""Reading a job's stream: entries, acknowledgements, and why a job waits."""
