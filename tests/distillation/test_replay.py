from __future__ import annotations

import numpy as np

from lfm_tasks.distillation.sequences.replay import Adaptive, Replay, fresh_share


def test_the_share_rises_where_validation_gets_worse_by_more_than_a_tenth():
    adaptive = Adaptive()
    for loss, share in ((2.0, 0.0), (2.05, 0.0), (2.2, 0.1), (1.0, 0.1), (1.2, 0.2)):
        adaptive.validated(loss)
        assert abs(adaptive.share - share) < 1e-12
    for step in range(30):
        adaptive.validated(10.0 + step)
    assert adaptive.share == 1.0


def test_the_oldest_sequence_goes_first_and_a_key_holds_its_newest():
    replay = Replay(capacity=2)
    for key, token in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        replay.add(key, np.array([token]))
    assert {key: int(tokens[0]) for key, tokens in replay.kept.items()} == {"a": 3, "c": 4}


def test_new_texts_become_fewer_to_the_end():
    assert [fresh_share(step, 4) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
