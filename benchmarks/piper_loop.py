"""The simplest server of Piper's audio: threads take texts from one queue, each with a session of one thread.

    python piper_loop.py MODEL PORT SESSIONS

It needs piper-tts alone, and runs in an environment of its own. A client sends a line of JSON with a text, and receives
samples until the end of the connection.
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
from pathlib import Path

import onnxruntime
from piper import PiperVoice
from piper.config import PiperConfig


def load(model: Path) -> PiperVoice:
    """Return a voice whose session computes in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    config = PiperConfig.from_dict(json.loads(Path(f"{model}.json").read_text(encoding="utf-8")))
    return PiperVoice(session=session, config=config)


def serve(voice: PiperVoice, waiting: queue.SimpleQueue[socket.socket]) -> None:
    """Speak the text of one connection after the other: the body of a thread."""
    while True:
        with waiting.get() as connection, connection.makefile("rb") as lines:
            try:
                for chunk in voice.synthesize(json.loads(lines.readline())):
                    connection.sendall(chunk.audio_int16_bytes)
            except OSError:
                continue  # the client has left


def main() -> None:
    """Accept connections for ever."""
    model, port, sessions = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    waiting: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
    for _ in range(sessions):
        threading.Thread(target=serve, args=(load(model), waiting), daemon=True).start()
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            waiting.put(server.accept()[0])


if __name__ == "__main__":
    main()
