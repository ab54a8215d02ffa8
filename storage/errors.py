"""What can be wrong with a lake; it stops the run."""

from __future__ import annotations

__all__ = ["LakeError"]


class LakeError(RuntimeError):
    """The lake could not be opened, read, written or asked.

    ``code`` is one of ``not_a_lake``, ``bad_location``, ``schema_version``, ``disk_full``, ``read_only``,
    ``damaged``, ``busy``, ``incomplete``, ``unknown_model``, ``model_exists``, ``unknown_video``, ``wrong_sql``,
    ``sql_stopped``, ``bad_output``, ``unreachable`` (an object store) or ``failed``.
    """

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[LakeError], tuple[str, str]]:
        return LakeError, (str(self), self.code)  # survives a process border
