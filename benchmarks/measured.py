"""Run a command and write what it cost: `python measured.py RESULT COMMAND ...`.

A process of its own, and a small one, because Linux counts the memory of the process that starts a command into the
command's peak.
"""

import json
import os
import subprocess
import sys


def main() -> int:
    result, *command = sys.argv[1:]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    with open(result, "w") as file:
        json.dump({"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}, file)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
