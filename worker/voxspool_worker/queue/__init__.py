"""The worker in its queues: taking jobs, keeping their leases, rescuing those of dead workers, RQ's records."""
