"""One colour per expression, the same in every picture."""

from __future__ import annotations

__all__ = ["EXPRESSION_COLOURS"]

#: Okabe and Ito's colour-blind-safe palette ("Color Universal Design", 2008), with grey in place of black: neutral is
#: the ground on which the others show. Also the order in which expressions are stacked and listed.
EXPRESSION_COLOURS: dict[str, str] = {
    "neutral": "#d0d0d0",
    "happiness": "#e69f00",
    "surprise": "#f0e442",
    "sadness": "#0072b2",
    "anger": "#d55e00",
    "disgust": "#009e73",
    "fear": "#cc79a7",
    "contempt": "#56b4e9",
}
