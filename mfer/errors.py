"""Errors that stop a run before its first video or training step."""

__all__ = ["ConfigError", "ModelError"]


class ConfigError(ValueError):
    """A setting, path or layout that a person has to correct."""


class ModelError(RuntimeError):
    """A model that is unknown, damaged or does not fit this version."""
