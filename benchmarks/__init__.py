"""Measure voxspool: speed, memory, load, XTTS and narration. Run a module as `python -m benchmarks.NAME`."""
