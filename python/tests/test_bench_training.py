"""The training benchmark where there is no GPU: what is asked for, what it trains on, what is written and drawn."""

import json

import pytest
import torch
from gla_tune.bench.errors import UsageError
from gla_tune.bench.training import cli, trainer
from gla_tune.bench.training.config import TrainingConfig
from gla_tune.bench.training.data import BLOCK, CHANCES, sequences
from gla_tune.bench.training.result import begun, read_result, write_result

SIDE = dict(date="2026-11-27T12:00:00+00:00", step_ms=250.0, peak_bytes=2**34, losses=[10.4, 8.0, 6.5])


def a_result(*names):
    config = {**vars(TrainingConfig())}
    sides = {name: SIDE for name in names}
    return {"device": "a GPU", "commit": "0123abc", "config": config, "sides": sides, "memory": {}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "--steps: 1 is not 2 or more"),
        (["--batch", "0"], "--batch: 0 is not 1 or more"),
        (["--tokens", "many"], "--tokens: invalid _count value: 'many'"),
        (["--seconds", "-1"], "--seconds: -1 is not 0 or more"),
        (["--side", "triton"], "invalid choice: 'triton'"),
        (["--resume"], "--resume goes with --json FILE"),
        (["--json", "no/such/folder/r.json"], "no/such/folder is not a folder"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_measuring_needs_a_gpu(capsys):
    assert cli.main([]) == 2
    assert "no CUDA GPU" in capsys.readouterr().err


def test_what_is_compiled_ahead_is_a_step_of_one_layer_and_few_tokens(monkeypatch):
    shares, trained = [], []
    monkeypatch.setattr(trainer, "share_configs", lambda *share: shares.append(share))
    monkeypatch.setattr(trainer, "Trainer", lambda side, config, data: trained.append((side.name, config, data)))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    trainer.compile_fla(TrainingConfig(), 3, 16)
    ((side, config, data),) = trained
    assert shares == [(3, 16)] and side == "fla" and data.shape == (config.steps * config.batch, config.tokens)
    assert (config.layers, config.batch, config.tokens % 16) == (1, TrainingConfig().batch, 0)
    assert config.head_dims == TrainingConfig().head_dims and config.tokens < TrainingConfig().tokens


def test_the_model_has_the_head_dims_of_its_size():
    assert TrainingConfig().head_dims == (128, 256)


def test_sequences_depend_on_their_seed_only_and_have_something_to_learn():
    data = sequences(3, 3 * BLOCK, seed=1)
    assert torch.equal(data, sequences(3, 3 * BLOCK, seed=1))
    assert not torch.equal(data, sequences(3, 3 * BLOCK, seed=2))
    assert torch.equal(data[:, :BLOCK], data[:, BLOCK : 2 * BLOCK])
    followers = {}
    for before, after in zip(data[:, : BLOCK - 1].flatten().tolist(), data[:, 1:BLOCK].flatten().tolist()):
        followers.setdefault(before, set()).add(after)
    assert max(map(len, followers.values())) <= len(CHANCES)
    assert data.flatten().bincount().sort(descending=True).values[:64].sum() > data.numel() / 3  # of 1024 symbols


def test_a_side_is_added_to_a_result_of_the_same_run_only(tmp_path):
    path = tmp_path / "r.json"
    fresh = a_result()
    assert begun(None, False, fresh) is fresh and begun(path, True, fresh) is fresh
    write_result(path, a_result("fla"))
    assert begun(path, True, fresh)["sides"] == {"fla": SIDE}
    with pytest.raises(UsageError, match="is there already"):
        begun(path, False, fresh)
    for changed in (dict(device="another"), dict(commit="fed"), dict(config={})):
        with pytest.raises(UsageError, match=f"has {next(iter(changed))}"):
            begun(path, True, {**fresh, **changed})
    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sides": []}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="r.json"):
        read_result(path)


@pytest.mark.parametrize("names", [["gla_tune"], ["fla", "gla_tune"]])
def test_the_chart_is_drawn_from_the_result(tmp_path, names):
    pytest.importorskip("matplotlib")
    path = tmp_path / "r.json"
    path.write_text(json.dumps(a_result(*names)))
    assert cli.main(["--plot", str(path)]) == 0
    assert all((tmp_path / f"r{suffix}").stat().st_size > 1000 for suffix in (".png", ".svg"))


def test_a_result_without_sides_draws_nothing(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write_result(tmp_path / "r.json", a_result())
    assert cli.main(["--plot", str(tmp_path / "r.json")]) == 2
    assert "nothing to draw" in capsys.readouterr().err
