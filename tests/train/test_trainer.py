from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import safetensors.torch
import torch

from narspeech.batch import Loss
from narspeech.config import from_dict, to_dict
from narspeech.data.batching import make_batches
from narspeech.errors import CheckpointError, ConfigError, TrainingError
from narspeech.train.average import average
from narspeech.train.metrics import read_metrics
from narspeech.train.optim import OptimConfig
from narspeech.train.state import best_weights, read_state
from narspeech.train.trainer import MAX_FAILURES, TrainConfig, Trainer, draw_seed
from tests.train.songs import Songs, config, new_model, score, trainer


class Killed(Exception):
    """As good as SIGKILL for what lies on the disk: nothing is tidied up."""


def weights(model):
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(x, second[name]) for name, x in first.items())


def without_time(entries):
    return [{name: x for name, x in entry.items() if name != "tokens_per_second"} for entry in entries]


def lose(model, how):
    """Let the model's loss pass through `how(loss, number of the call)`."""
    forward, calls = model.forward, iter(range(10**6))
    model.forward = lambda batch, step: how(forward(batch, step), next(calls))


def test_the_loss_falls(tmp_path):
    trainer(tmp_path, config(epochs=15, optim=OptimConfig(learning_rate=1e-2, warmup=10)), count=16).train()
    losses = [entry["loss"] for entry in read_metrics(tmp_path) if entry["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]


def test_metrics_tell_of_every_epoch(tmp_path):
    run = trainer(tmp_path, config(epochs=3))
    run.train()
    entries = read_metrics(tmp_path)
    train = [entry for entry in entries if entry["kind"] == "train"]
    assert {"loss", "ctc", "decoder", "infeasible", "skipped", "learning_rate", "tokens_per_second"} <= train[0].keys()
    assert [entry["epoch"] for entry in entries if entry["kind"] == "scores"] == [1, 2, 3]
    assert train[-1]["update"] == run.position.update
    assert sorted({entry["epoch"] for entry in train}) == [1, 2, 3]


def test_accumulated_micro_batches_are_one_big_batch(tmp_path):
    one_update = config(epochs=1, optim=OptimConfig(learning_rate=1e-2, warmup=0, clip=0.5))
    big = trainer(tmp_path / "big", replace(one_update, max_seconds=60.0))
    small = trainer(tmp_path / "small", replace(one_update, max_seconds=1.5, accumulate=99))
    for run in (big, small):
        gradients(run)
    batches = make_batches(small.data.durations(0), max_seconds=1.5, seed=0, epoch=0)
    assert len(batches) > 3
    loss = {}
    for name, run in (("big", big), ("small", small)):
        run.train()
        assert run.position.update == 1
        loss[name] = read_metrics(tmp_path / name)[0]["ctc"]
    assert loss["big"] == pytest.approx(loss["small"], rel=1e-5)
    assert big.seen.keys() == small.seen.keys()
    for name, gradient in big.seen.items():
        assert torch.allclose(gradient, small.seen[name], rtol=1e-3, atol=1e-6), name


def gradients(run):
    """CTC alone, because the decoder's masks are drawn by micro-batch; the gradients are noted at the update."""
    run.model.config = replace(run.model.config, ctc=replace(run.model.config.ctc, weight=1.0))
    step = run.optimizer.step

    def noting():
        run.seen = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
        step()

    run.optimizer.step = noting


def test_targets_longer_than_their_frames_are_counted_and_reported(tmp_path, capsys):
    data = Songs(8)
    data.texts[3] = "abcd" * 2
    spell = data.__class__.__getitem__

    class Hasty(Songs):
        def __getitem__(self, key):
            item = spell(self, key)
            return item._replace(source=item.source[:1600]) if key[1] == 3 else item

    data.__class__ = Hasty
    run = Trainer(new_model(), config(), data, tmp_path, score)
    run.train()
    assert run.position.infeasible == 2  # once an epoch
    assert sum(entry["infeasible"] for entry in read_metrics(tmp_path) if entry["kind"] == "train") == 2
    assert "infeasible 1" in capsys.readouterr().err
    assert read_state(tmp_path / "checkpoints").position.infeasible == 2


def test_a_non_finite_update_changes_nothing_and_is_counted(tmp_path, capsys):
    run = trainer(tmp_path, config(epochs=1, log_every=1))
    noted = []
    lose(run.model, lambda loss, call: loss._replace(total=loss.total * (float("nan") if call == 1 else 1.0)))
    update = run._update

    def noting(batches, progress):
        before = weights(run.model)
        update(batches, progress)
        noted.append(equal(before, weights(run.model)))

    run._update = noting
    run.train()
    assert noted == [number == 1 for number in range(len(noted))]
    assert len(noted) > 3
    assert run.position.skipped == 1
    train = [entry for entry in read_metrics(tmp_path) if entry["kind"] == "train"]
    assert [entry["skipped"] for entry in train] == [0] + [1] * (len(train) - 1)
    assert all(entry["loss"] == entry["loss"] for entry in train if "loss" in entry)
    assert "skipped 1" in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_is_skipped_too(tmp_path):
    run = trainer(tmp_path, config(epochs=1))
    parameter = run.model.ctc.output.weight
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(run.model)
    run.train()
    assert run.position.skipped == run.position.update
    assert equal(before, weights(run.model))


def test_twenty_in_a_row_stop_the_run(tmp_path):
    run = trainer(tmp_path, config(epochs=99, save_every=7), count=8)
    # One that is finite in between starts the count anew.
    lose(run.model, lambda loss, call: loss._replace(total=loss.total * (1.0 if call in (0, 12) else float("inf"))))
    with pytest.raises(TrainingError, match="received 20 non-finite updates in a row"):
        run.train()
    assert run.position.skipped == 11 + MAX_FAILURES
    # A run that is killed and started again does not forget how many there were.
    again = trainer(tmp_path, config(epochs=99, save_every=7), count=8)
    stored = again.position
    assert stored.failures == stored.update - 13
    lose(again.model, lambda loss, _: loss._replace(total=loss.total * float("inf")))
    with pytest.raises(TrainingError):
        again.train()
    assert again.position.update == run.position.update


def kill_at(run, moment):
    """Raise inside the forward pass of update `moment`, after the evaluation, or around the saving of a state."""
    name, number = moment
    inner = getattr(run, name)

    def killing(*arguments):
        if run.position.update == number:
            raise Killed
        return inner(*arguments)

    setattr(run, name, killing)


SETTINGS = config(epochs=2, save_every=3, keep=1, max_seconds=1.6)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unkilled")
    run = trainer(folder, SETTINGS, dropout=0.2)
    run.train()
    return folder, run


def test_killed_at_any_update_and_resumed_is_bit_for_bit_unkilled(unkilled, tmp_path):
    folder, whole = unkilled
    updates = whole.position.update
    assert updates >= 10
    for moment in [("_loss", number) for number in range(updates)]:
        check_killed(folder, whole, tmp_path / str(moment[1]), moment)


@pytest.mark.parametrize("name", ["_log", "_save", "_evaluate", "evaluate"])
def test_killed_beside_an_update(unkilled, tmp_path, name):
    folder, whole = unkilled
    updates = whole.position.update
    for number in (6, updates // 2, updates):
        check_killed(folder, whole, tmp_path / str(number), (name, number))


def check_killed(folder, whole, out, moment):
    run = trainer(out, SETTINGS, dropout=0.2)
    kill_at(run, moment)
    try:
        run.train()
    except Killed:
        assert run.position.update == moment[1]
    torch.manual_seed(99)  # what happened in between is of no matter
    again = trainer(out, SETTINGS, dropout=0.2)
    assert moment[1] - again.position.update <= SETTINGS.save_every
    again.train()
    assert equal(weights(whole.model), weights(again.model))
    assert equal(whole.optimizer.state_dict()["state"][0], again.optimizer.state_dict()["state"][0])
    assert again.position == whole.position
    assert without_time(read_metrics(out)) == without_time(read_metrics(folder))
    mean, expected = (average(best_weights(path / "checkpoints")) for path in (out, folder))
    assert equal(mean, expected)


def test_a_finished_run_does_nothing_more(unkilled, tmp_path):
    _, whole = unkilled
    run = trainer(tmp_path, SETTINGS, dropout=0.2)
    run.train()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    again = trainer(tmp_path, SETTINGS, dropout=0.2)
    again.train()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == files
    assert equal(weights(again.model), weights(whole.model))


def test_the_state_wins_over_whatever_the_model_was(tmp_path):
    first = trainer(tmp_path, config())
    first.train()
    second = Trainer(new_model(seed=5), config(), Songs(12), tmp_path, score)
    assert equal(weights(first.model), weights(second.model))
    with pytest.raises(CheckpointError, match="to fit the configured model"):
        Trainer(new_model(decoder="ctc"), config(), Songs(12), tmp_path, score)


def test_the_best_epochs_are_kept_and_averaged(tmp_path):
    seen, scores = [], iter([0.9, 0.3, 0.5, 0.3, 0.7])

    def evaluate(model):
        assert not model.training
        seen.append(weights(model))
        return {"score": next(scores)}

    run = Trainer(new_model(), config(epochs=5, keep=3), Songs(6), tmp_path, evaluate)
    run.train()
    assert run.position.best == [(0.3, 2), (0.3, 4), (0.5, 3)]
    kept = best_weights(run.checkpoints)
    assert [path.name for path in kept] == [f"epoch-000{epoch}.safetensors" for epoch in (2, 4, 3)]
    assert sorted(kept) == sorted(run.checkpoints.glob("epoch-*"))
    assert all(equal(safetensors.torch.load_file(path), seen[int(path.stem[-4:]) - 1]) for path in kept)
    mean = average(kept)
    name = "ctc.output.weight"
    expected = sum(seen[epoch][name].double() for epoch in (1, 2, 3)) / 3
    assert torch.allclose(mean[name].double(), expected, atol=1e-7)
    assert not torch.equal(mean[name], seen[1][name])


def test_evaluation_every_so_many_epochs_and_at_the_end(tmp_path):
    trainer(tmp_path, config(epochs=5, evaluate_every=2), count=4).train()
    assert [entry["epoch"] for entry in read_metrics(tmp_path) if entry["kind"] == "scores"] == [2, 4, 5]


def test_data_are_asked_for_by_epoch_and_short_ones_first(tmp_path):
    data = Songs(12)
    run = Trainer(new_model(), config(epochs=2), data, tmp_path, score)
    order = {epoch: [] for epoch in (0, 1)}
    update = run._update

    def noting(batches, progress):
        order[run.position.epoch] += [float(batch.source.lengths.max()) for batch in batches]
        update(batches, progress)

    run._update = noting
    run.train()
    assert order[0] == sorted(order[0])
    assert order[1] != sorted(order[1])
    assert {key for key in data.asked if key[0] == 1} >= {(1, index) for index in range(12)}


def test_progress_and_the_learning_rate_reach_the_update(tmp_path):
    run = trainer(tmp_path, config(epochs=2, log_every=1, optim=OptimConfig(learning_rate=1.0, warmup=4)), count=6)
    steps = []
    lose(run.model, lambda loss, _: Loss(loss.total * 0, loss.count, loss.parts))
    update = run._update

    def noting(batches, progress):
        update(batches, progress)
        steps.append((progress, run.optimizer.param_groups[0]["lr"]))

    run._update = noting
    run.train()
    assert steps[0] == (0.0, 0.25)
    assert all(0 < later[0] < 1 and later[0] > earlier[0] for earlier, later in pairwise(steps))
    rates = [entry["learning_rate"] for entry in read_metrics(tmp_path) if entry["kind"] == "train"]
    assert rates == pytest.approx([rate for _, rate in steps])


def test_loading_processes_change_nothing(tmp_path):
    run = trainer(tmp_path, replace(SETTINGS, workers=1, epochs=1), dropout=0.2)
    run.train()
    other = trainer(tmp_path / "other", replace(SETTINGS, epochs=1), dropout=0.2)
    other.train()
    assert equal(weights(run.model), weights(other.model))


def test_draws_depend_on_their_place_alone():
    seeds = {draw_seed(seed, update, place) for seed in range(3) for update in range(20) for place in range(5)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(0, 0, 0) == 7896617691693857887  # the same in every Python and on every machine


def test_nothing_to_train_on_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="at least one training example"):
        trainer(tmp_path, config(), count=0)


@pytest.mark.parametrize("name", ["epochs", "accumulate", "save_every", "log_every", "evaluate_every", "keep"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"expected {name} of at least 1"):
        TrainConfig(**{name: 0})


def test_the_configuration_survives_json():
    settings = config(precision="bf16", max_utterances=3)
    assert from_dict(TrainConfig, to_dict(settings)) == settings


def test_bf16_trains_on_the_processor(tmp_path):
    run = trainer(tmp_path, config(epochs=2, precision="bf16"), count=6)
    run.train()
    assert run.position.skipped == 0
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_frozen_parts_stay_as_they_are(tmp_path):
    run = trainer(tmp_path, config(freeze=("encoder", "ctc")), dropout=0.1)
    before, modes = weights(run.model), []

    def noted(loss, _):
        modes.append((run.model.encoder.training, run.model.frontend.training))
        return loss

    lose(run.model, noted)
    run.train()
    changed = {name.split(".")[0] for name, x in run.model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"decoder"}
    assert set(modes) == {(False, True)}  # dropout and statistics rest, augmentation goes on


@pytest.mark.parametrize(
    ("freeze", "message"),
    [(("encoders",), "such as frontend, encoder"), (("decoder", "encoder", "ctc"), "left to train")],
)
def test_what_cannot_be_frozen_is_refused(tmp_path, freeze, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, config(freeze=freeze))
