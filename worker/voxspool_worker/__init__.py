"""The worker of voxspool: one long-lived process that loads a speech engine and speaks many jobs at once.

`voxspool-worker run` starts it. This module imports nothing: a job names `voxspool_worker.tasks.synthesize`, whose
import must stay cheap.
"""
