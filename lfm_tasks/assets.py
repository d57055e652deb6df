"""The assets that schedule DAGs: a model was made, a data set was made.

There is one asset of each kind and an event for each artifact; what it is, is in the event's ``extra`` (``sha256``, ``kind``,
``step``, ``method``, ``record``, ``run_id``). A task says with ``outlets=[NEW_MODEL]`` that it announces what it makes. An alias
emits an event only where there is something to announce, so that an answer from the step cache wakes nobody.
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

MODEL = Asset(name="lfm_model", uri="lfm://model", group="lfm")
DATASET = Asset(name="lfm_dataset", uri="lfm://dataset", group="lfm")
NEW_MODEL = AssetAlias(name="lfm_new_model", group="lfm")
NEW_DATASET = AssetAlias(name="lfm_new_dataset", group="lfm")
ANNOUNCED = {"model": (NEW_MODEL, MODEL), "adapter": (NEW_MODEL, MODEL), "dataset": (NEW_DATASET, DATASET)}
