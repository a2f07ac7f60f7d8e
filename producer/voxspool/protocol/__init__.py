"""Define the wire format between producers, workers and readers: values and bytes, without input or output.

`jobs` and `narration` define the jobs that a producer enqueues, `stream` the entries that a worker writes, `voices` the
names of voices and the stored description of a cloned voice, `keys` the keys in Redis, `environment` the variables that
both packages read. `numbers` reads counts from untrusted text. No module here imports redis, rq or click, or depends on
how a job is queued, spoken or read.
"""

VERSION = 1
"""The protocol version in every job and every `begin` entry. A reader refuses a version that it does not know."""
