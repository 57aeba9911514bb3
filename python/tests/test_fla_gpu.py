"""With FLA on a GPU: a model of its own gives the same logits on these kernels, with every call taken over."""

import pytest
import torch

import gla_tune

pytestmark = pytest.mark.gpu
pytest.importorskip("fla", reason="FLA is not installed")

VOCABULARY, HEADS = 1000, 4
LENGTHS = [0, 70, 71, 200, 256]
BF16_ERROR = 0.02  # two layers of bf16, relative to the logits


@pytest.fixture(scope="module", params=["chunk", "fused_chunk", "fused_recurrent"])
def model(request):
    """A small GLAForCausalLM with random weights. FLA cannot run mode fused_chunk: all are compared with chunk."""
    from fla.models import GLAConfig, GLAForCausalLM

    torch.manual_seed(0)
    config = GLAConfig(
        hidden_size=512, num_hidden_layers=2, num_heads=HEADS, vocab_size=VOCABULARY, expand_k=1.0, attn_mode="chunk"
    )
    model = GLAForCausalLM(config).to("cuda", torch.bfloat16).eval()
    model.patched_mode = request.param
    return model


def tokens(rows, length):
    return torch.randint(VOCABULARY, (rows, length), device="cuda", generator=torch.Generator("cuda").manual_seed(1))


def logits(model, patched, **arguments):
    """Logits of one call; patched, with every call taken over."""
    with torch.no_grad():
        if not patched:
            return model(**arguments)
        with in_mode(model), gla_tune.patch_fla() as patch:
            output = model(**arguments)
    calls = patch.report()
    assert sum(call.taken for call in calls.values()) == len(model.model.layers)
    assert not any(call.left for call in calls.values())
    return output


class in_mode:
    """The layers in the mode under test."""

    def __init__(self, model):
        self.model = model

    def _set(self, mode):
        for layer in self.model.model.layers:
            layer.attn.mode = mode

    def __enter__(self):
        self._set(self.model.patched_mode)

    def __exit__(self, *_exception):
        self._set("chunk")


def assert_same(found, expected):
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error.item() <= BF16_ERROR


def test_prefill(model):
    ids = tokens(2, 256)
    assert_same(logits(model, True, input_ids=ids).logits, logits(model, False, input_ids=ids).logits)


def test_packed_sequences(model):
    ids = tokens(1, LENGTHS[-1])
    lengths = torch.tensor(LENGTHS, device="cuda")
    found = logits(model, True, input_ids=ids, cu_seqlens=lengths).logits
    assert_same(found, logits(model, False, input_ids=ids, cu_seqlens=lengths).logits)


def test_generation_of_64_tokens_from_a_cache(model):
    ids = tokens(2, 192)

    def generate(patched):
        output = logits(model, patched, input_ids=ids[:, :128], use_cache=True)
        steps = [output.logits]
        for index in range(128, 192):
            token = ids[:, index : index + 1]
            output = logits(model, patched, input_ids=token, use_cache=True, past_key_values=output.past_key_values)
            steps.append(output.logits)
        return torch.cat(steps, dim=1)

    found = generate(True)
    assert_same(found, generate(False))
    with torch.no_grad():
        assert_same(found, model(input_ids=ids).logits)


def test_training(model):
    ids = tokens(1, 128)

    def gradients():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients()
    with in_mode(model), gla_tune.patch_fla() as patch:
        found = gradients()
    model.zero_grad()
    assert sum(call.taken for call in patch.report().values()) == len(model.model.layers)
    for name, gradient in expected.items():
        assert_same(found[name], gradient)
