"""What can be wrong with a lake; it stops the run."""

from __future__ import annotations

__all__ = ["LAKE_CODES", "LakeError"]

#: docs/errors.md has a cause and a remedy for each.
LAKE_CODES = frozenset(
    {
        *("not_a_lake", "bad_location", "schema_version", "disk_full", "read_only", "unreachable", "damaged", "busy"),
        *(
            "incomplete",
            "unknown_video",
            "unknown_model",
            "model_exists",
            "wrong_sql",
            "own_table",
            "sql_stopped",
            "bad_output",
        ),
        "failed",
    }
)


class LakeError(RuntimeError):
    """The lake could not be opened, read, written or queried; ``code`` is one of ``LAKE_CODES``."""

    def __init__(self, message: str, code: str = "failed") -> None:
        assert code in LAKE_CODES, code
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[LakeError], tuple[str, str]]:
        return LakeError, (str(self), self.code)  # survives a process border
