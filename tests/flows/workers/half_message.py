"""A child process that begins to send a message and then hangs."""

import os
import struct
import threading


def main(control_fd: int, status_fd: int) -> None:
    os.write(control_fd, struct.pack("!i", 1000) + b"half")  # the length comes first (multiprocessing.connection)
    threading.Event().wait()
