"""`python -m voxspool` is the command `voxspool`."""

from voxspool.cli import main

if __name__ == "__main__":
    main(prog_name="voxspool")
