"""Messages of the tune step's config, and what its cache key is made of."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.errors import ConfigError
from lfm_tasks.tuning.config import TuneConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "lore"}, r"Unknown method 'lore'. Did you mean 'lora'\? Allowed: bitfit, dora, full, lora, rslora"),
        ({"options": {"rank": 10**9}}, r"options of lora: rank: .*less than or equal to 1024. Got 1000000000"),
        (
            {"options": {"rnk": 8}},
            r"options of lora: Unknown option 'rnk'. Did you mean 'rank'\? Allowed: alpha, dropout, rank, target_modules",
        ),
        ({"method": "bitfit", "options": {"rank": 8}}, "options of bitfit: Unknown option 'rank'. Allowed: norms"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "warmup_steps=3 and warmup_ratio=0.1 exclude one another"),
        ({"keep_every": 5}, "keep_every=5 says how far apart the kept models are, and none is kept. Set keep_last"),
        ({"keep_last": 3, "early_stopping_patience": 2}, "keep_last=3 and early_stopping_patience=2 exclude one another"),
        ({"learning_rate": 0}, "learning_rate: .*greater than 0. Got 0"),
        ({"learn_rate": 1e-3}, "Unknown option 'learn_rate'. Did you mean 'learning_rate'"),
        ({"options": {"target_modules": ["q_proj"] * 20_000}}, "at most 65,536 are accepted"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(TuneConfig, values)


def test_the_cache_key_has_the_options_with_their_defaults_and_leaves_out_what_changes_no_byte():
    plain, spelled = TuneConfig(), TuneConfig(options={"rank": 8}, checkpoint_every=7)
    assert plain.cache_fields() == spelled.cache_fields()
    assert plain.cache_fields()["options"]["alpha"] == 16.0
    assert TuneConfig(options={"rank": 4}).cache_fields() != plain.cache_fields()


def test_every_field_is_described():
    from lfm_tasks.catalogue import methods_of

    for config in (TuneConfig, *(card.config_class for card in methods_of("tune"))):
        assert all(field.description for field in config.model_fields.values())


def test_config_and_cards_import_nothing_heavy():
    code = (
        "import sys; from lfm_tasks.tuning.config import TuneConfig; TuneConfig(); import lfm_tasks.catalogue;"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
