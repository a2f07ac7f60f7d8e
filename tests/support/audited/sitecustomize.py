"""Log what a Python process opens, connects to, lists, starts and imports, from its start.

Python imports this module by itself in a process with this folder in PYTHONPATH.
"""

import os
import sys

WATCHED = (
    "open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.symlink", "os.system", "os.exec",
    "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname",
    "urllib.Request", "http.client.connect", "ftplib.connect", "glob.glob", "shutil.copyfile", "tempfile.mkstemp",
    "ctypes.dlopen", "import",
)  # fmt: skip

_log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _log_event(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED:
        os.write(_log, f"{event} {arguments!r}\n".encode(errors="replace"))


sys.addaudithook(_log_event)
