"""Which model a name means: the lake's production model, one of the lake's, one of the package's, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mfer.card import CARD_FILE, Card, packaged_models, read_card
from mfer.errors import ModelError
from storage.errors import LakeError
from storage.lake import Lake
from storage.models import PACKAGE_MODEL, ModelStore

__all__ = ["DEFAULT_MODEL", "card_of", "find_model", "known_models"]

#: The model in the package that ``default`` means where no lake says otherwise.
DEFAULT_MODEL = PACKAGE_MODEL.partition("@")[0]


def find_model(name: str, lake: Lake | None = None) -> Path:
    """The folder of a model.

    Args:
        name: ``default`` (the lake's production model if it has one, else the package's), a name or model_id
            that the lake or the package knows, or the path of a model's folder.
        lake: where to look first.

    Raises:
        ModelError: nothing is called that; the message lists what there is.
    """
    packaged = packaged_models()
    if lake is not None:
        store = ModelStore(lake)
        wanted = store.production() if name == "default" else name
        if wanted is not None:
            for model in store.published():
                if wanted in (model.model_id, model.name):
                    return store.path_of(model.model_id)
    if name == "default":
        name = PACKAGE_MODEL
    for folder in packaged.values():
        if name in (folder.name, read_card(folder).model_id):
            return folder
    if (Path(name) / CARD_FILE).is_file():
        return Path(name)
    known = [card.model_id for _, card in known_models(lake)]
    raise ModelError(f"no model {name!r}; there are default, {', '.join(known) or 'none'}, or give a model's folder")


def known_models(lake: Lake | None = None) -> list[tuple[str, Card]]:
    """(origin, card) of every model of the package and the lake; origin is ``package``, ``lake`` or ``production``."""
    found = [("package", read_card(folder)) for folder in packaged_models().values()]
    if lake is not None:
        store = ModelStore(lake)
        for model in store.published():
            try:
                found.append(
                    ("production" if model.in_production else "lake", read_card(store.path_of(model.model_id)))
                )
            except ModelError as error:
                raise LakeError(f"the lake's model {model.model_id} cannot be read: {error}", "damaged") from error
    return found


def card_of(model_id: str, lake: Lake) -> dict[str, Any] | None:
    """The card of a model as a dictionary; None if the model is not found."""
    try:
        return read_card(find_model(model_id, lake)).to_dict()
    except ModelError:
        return None
