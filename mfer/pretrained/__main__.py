"""``python -m mfer.pretrained``: fetch the pretrained weights and say where they are."""

from __future__ import annotations

import sys

from mfer.errors import ConfigError
from mfer.pretrained.files import DLIB_SHA256, dlib_file, fetch_faceres, read_verified


def main() -> int:
    try:
        print(f"faceres-deep: {fetch_faceres()}")
        path = dlib_file()
        read_verified(path, DLIB_SHA256)
        print(f"dlib: {path}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
