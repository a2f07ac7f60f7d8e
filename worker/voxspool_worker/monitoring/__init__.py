"""Metrics, the watchdog, the health file and the worker card: the health and the speed of a worker."""
