"""The voices of a worker: those of its engine, cloned voices, and voices that can be downloaded."""
