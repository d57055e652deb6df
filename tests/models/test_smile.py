import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from lfm_tasks.errors import ConfigError
from lfm_tasks.models.mixtures.smile import SmileLinear, added_parameters, smile, smile_linear

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}


def bert():
    return BertForSequenceClassification(BertConfig(**SMALL)).eval()


def llama():
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)).eval()


def tuned(base, seed):
    """A copy whose linear layers alone have moved."""
    expert, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    for layer in expert.modules():
        if isinstance(layer, nn.Linear):
            for value in layer.parameters():
                value.data += 0.1 * torch.randn(value.shape, generator=generator)
    return expert


@pytest.mark.parametrize("make", [bert, llama])
@pytest.mark.parametrize("rank", [0, 999])
def test_one_expert_of_full_rank_is_the_expert(make, rank):
    torch.manual_seed(0)
    base = make()
    expert, ids = tuned(base, 1), torch.arange(14).reshape(2, 7)
    mixture = smile(base, [expert], rank, gate_rank=2, top_k=1)
    assert not torch.allclose(base(ids).logits, expert(ids).logits, atol=1e-3)
    torch.testing.assert_close(mixture(ids).logits, expert(ids).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 1)])
@pytest.mark.parametrize("rank", [0, 999])
@pytest.mark.parametrize("bias", [True, False])
def test_a_forced_choice_is_that_expert(shape, rank, bias):
    torch.manual_seed(0)
    base, *experts = (nn.Linear(*shape, bias=bias).double() for _ in range(4))
    layer, x = smile_linear(base, experts, rank, gate_rank=2, top_k=3), torch.randn(2, 5, shape[0]).double()
    for place, expert in enumerate(experts):
        chosen = torch.eye(3)[place].double().expand(2, 5, 3)
        torch.testing.assert_close(layer.mix(x, chosen), expert(x))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_output_is_the_paper_s_formula_token_by_token(top_k):
    torch.manual_seed(0)
    base, *experts = (nn.Linear(7, 5).double() for _ in range(4))
    layer, x = smile_linear(base, experts, 2, 3, top_k), torch.randn(11, 7).double()
    svd = [torch.linalg.svd(expert.weight - base.weight, full_matrices=True) for expert in experts]
    for token, got in zip(x, layer(x), strict=True):
        routed = torch.stack([(vh[:3] @ token).norm() for _, _, vh in svd]).softmax(0)
        best = routed.topk(top_k).indices
        want = base(token)
        for t in best.tolist():
            u, s, vh = svd[t]
            low_rank = u[:, :2] @ torch.diag(s[:2]) @ vh[:2]
            want = want + routed[t] / routed[best].sum() * (low_rank @ token + experts[t].bias - base.bias)
        torch.testing.assert_close(got, want)


def test_base_and_experts_are_borrowed():
    base = bert()
    experts = [tuned(base, 1), tuned(base, 2)]
    before = [copy.deepcopy(model.state_dict()) for model in (base, *experts)]
    mixture = smile(base, experts, 4, 2, 1)
    for value in mixture.parameters():
        value.data.zero_()
    for model, state in zip((base, *experts), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_added_parameters_follow_the_formula():
    base = bert()
    mixture = smile(base, [tuned(base, seed) for seed in (1, 2, 3)], 4, 2, 1, mixed=lambda name: name != "classifier")
    layers = [(layer.in_features, layer.out_features) for name, layer in base.named_modules() if isinstance(layer, nn.Linear)][:-1]
    assert added_parameters(mixture) == sum(3 * (4 * (i + o) + o + 2 * i) for i, o in layers)
    assert isinstance(mixture.classifier, nn.Linear)


def test_a_layer_that_no_expert_moved_stays_plain():
    base = bert()
    assert not any(isinstance(layer, SmileLinear) for layer in smile(base, [copy.deepcopy(base)], 4, 2, 1).modules())


def test_what_cannot_be_mixed_is_said():
    base = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ConfigError, match="top_k 2: choose between 1 and the number of experts, 1"):
        smile(base, [base], 4, 2, 2)
    with pytest.raises(ConfigError, match="rank -1 and gate_rank 2"):
        smile(base, [base], -1, 2, 1)
    with pytest.raises(ConfigError, match="expert 0 has no linear layer 0 like the base's"):
        smile(base, [nn.Sequential(nn.Linear(3, 4))], 4, 2, 1)
