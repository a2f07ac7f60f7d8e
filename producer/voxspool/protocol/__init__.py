"""The contract between producers, workers and consumers: values and bytes, no input or output.

`jobs` is what a producer asks for, `stream` what a worker answers, `voices` what a voice is called and what is stored
of a cloned one, `keys` where all of it lies in Redis, `environment` the variables both sides read, `near` the words of
a helpful refusal. Nothing here imports redis, rq or click, and nothing knows how a job is queued, spoken or read.
"""

VERSION = 1
"""The version every job and every `begin` entry carries. A reader refuses a version that it does not know."""
