"""The contract between producers, workers and consumers: values and bytes, no input or output.

`jobs` and `narration`: what a producer asks for. `stream`: what a worker answers. `voices`: the names of voices, and
what is stored of a cloned one. `keys`: the keys in Redis. `environment`: the variables that both packages read.
`numbers`: counts in text that anybody may have written.
Nothing here imports redis, rq or click, and nothing depends on how a job is queued, spoken or read.
"""

VERSION = 1
"""The version every job and every `begin` entry carries. A reader refuses a version that it does not know."""
