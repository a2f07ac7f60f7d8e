"""The health and the speed of a worker: metrics, watchdog, health file and worker card."""
