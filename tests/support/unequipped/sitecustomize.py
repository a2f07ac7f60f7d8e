"""Makes a Python process blind to the modules that ABSENT names, from its first moment: as if not installed.

A process that has this folder in PYTHONPATH imports it by itself. It knows nothing of voxspool.
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
