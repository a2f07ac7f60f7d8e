"""`python -m voxspool_worker` is the command `voxspool-worker`."""

from voxspool_worker.cli import main

if __name__ == "__main__":
    main(prog_name="voxspool-worker")
