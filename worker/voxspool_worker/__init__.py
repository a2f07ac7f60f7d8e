"""The worker of voxspool: one long-lived process that holds a speech engine and speaks many jobs at once.

Started by `voxspool-worker run`. Nothing is imported here: a job names `voxspool_worker.tasks.synthesize`, and what
that import pulls in must stay light.
"""
