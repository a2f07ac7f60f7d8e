"""Hide the modules that the variable ABSENT lists from a Python process, as if they were not installed.

Python imports this module by itself in a process with this folder in PYTHONPATH.
"""

import os
import sys
from importlib.machinery import PathFinder

_ABSENT = frozenset(os.environ["ABSENT"].split(","))


class _BlindFinder(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):  # noqa: ANN001, ANN206
        if fullname.partition(".")[0] in _ABSENT:
            return None
        return super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = _BlindFinder
