"""The eight expression classes, by name. An index never leaves a module without the names it belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from mfer.errors import ConfigError

__all__ = ["AFFECTNET_CLASSES", "EXPRESSIONS", "FERPLUS_CLASSES", "RAFDB_CLASSES", "class_name"]

#: Column order of the FER+ votes (Barsoum et al. 2016) and this project's canonical order.
EXPRESSIONS: tuple[str, ...] = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
FERPLUS_CLASSES = EXPRESSIONS
#: RAF-DB numbers its basic expressions 1..7 in this order (its own readme).
RAFDB_CLASSES: tuple[str, ...] = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
#: AffectNet numbers its expressions 0..7 in this order; the seven-class protocol drops the last.
AFFECTNET_CLASSES: tuple[str, ...] = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)

_ALIASES = {
    "neutrality": "neutral",
    "happy": "happiness",
    "joy": "happiness",
    "surprised": "surprise",
    "sad": "sadness",
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
}


def class_name(label: str, allowed: Sequence[str] = EXPRESSIONS) -> str:
    """Map a label as people write it (``Happy``, ``03_sad``) to one of the eight names.

    Raises ConfigError for anything else, bare numbers included: they mean different things in every data set.
    """
    word = label.strip().lower().lstrip("0123456789_- ")
    name = _ALIASES.get(word, word)
    if name not in allowed:
        raise ConfigError(
            f"{label!r} is not an expression; name classes {', '.join(allowed)}"
            " (also: happy, joy, surprised, sad, angry, disgusted, fearful). Numbers alone are refused."
        )
    return name
