"""What shows how a worker is doing: metrics, the watchdog, the health file."""
