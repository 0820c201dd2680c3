"""Search of keys: candidates, estimates, ranking, cache, report, written file."""

import dataclasses
from types import SimpleNamespace

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.planning import outcome as outcomes
from targetsft_jax.planning.candidates import Candidate, candidates, steps_by_mesh
from targetsft_jax.planning.chips import CHIPS
from targetsft_jax.planning.estimate import estimate
from targetsft_jax.planning.outcome import Outcome
from targetsft_jax.planning.plan import Roofline, make_plan
from targetsft_jax.planning.search import search
from targetsft_jax.planning.search_report import lines, search_and_print, write_config
from targetsft_jax.planning.topology import get_topology

KEYS = (
    *("--student.build.hidden_size", "64", "--student.build.intermediate_size", "96"),
    *("--target.name", "sft", "--data.max_length", "32", "--train.batch_size", "8"),
    *("--train.remat", "none"),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return load([*KEYS, "--cache_dir", str(folder)])


@pytest.fixture(scope="module")
def topology():
    """Eight CPU devices with the rates of a TPU, so that there is a roofline."""
    return dataclasses.replace(get_topology("cpu:8"), chip=CHIPS["v5e"])


@pytest.fixture(scope="module")
def steps(config, topology):
    return steps_by_mesh(config, topology)


@pytest.fixture
def compiled(monkeypatch):
    """Compilations as arithmetic; lists the candidates that were compiled."""
    done = []

    def compile(candidate, config, topology, capacity):
        done.append(candidate)
        parts = candidate.accumulation_steps
        needed = {"full": 5.0, "dots": 9.0, "none": 20.0}.get(candidate.remat, 7.0)
        seconds = {"full": 4.0, "dots": 3.0, "none": 2.9}.get(candidate.remat, 3.5)
        bounds = Roofline(compute=seconds, hbm=1.0, ici=0.1 * parts)
        return Outcome(candidate, needed, capacity, 1e9, 100, bounds, 0.5, 10.0)

    monkeypatch.setattr(outcomes, "_compile", compile)
    return done


def test_candidates_divide_devices_and_batch(config, steps):
    found = list(candidates(config, steps))
    assert len(found) == len(set(found)) > 100
    for each in found:
        data, fsdp, context, tensor = each.mesh
        assert data * fsdp * context * tensor == 8
        assert 8 // each.accumulation_steps % (data * fsdp) == 0
        # CPUs have no host memory of their own.
        student = steps[each.mesh].spec.student
        assert student.num_heads % tensor == 0 and each.remat != "offload"
    # What a search yields, a run accepts.
    last = found[-1].applied(config)
    assert last.mesh.tensor == found[-1].tensor and last.train.remat == found[-1].remat


def test_one_slice_does_not_hold_rows_of_another(config, topology):
    two = dataclasses.replace(topology, slices=2)
    assert {mesh[0] % 2 for mesh in steps_by_mesh(config, two)} == {0}


@pytest.mark.parametrize(
    "candidate",
    [Candidate(1, 8, 1, 1, 1, "none"), Candidate(2, 2, 1, 2, 2, "dots")],
)
def test_the_floor_is_below_the_memory_of_the_compiled_step(
    candidate, config, topology, steps
):
    """So that arithmetic never drops a candidate that fits."""
    each = estimate(candidate, steps[candidate.mesh], topology.chip)
    plan = make_plan(candidate.applied(config), topology)
    # The peak that XLA reports for CPUs leaves temporaries out.
    compiled = plan.memory.arguments + plan.memory.temporaries
    assert plan.memory.arguments < each.floor < compiled
    # The FLOPs, and so the bound by which a search stops, are exactly those of a plan.
    assert each.compute == pytest.approx(plan.roofline.compute)


def test_an_estimate_follows_what_is_saved(config, steps):
    def floor(remat, accumulation_steps=1):
        candidate = Candidate(1, 1, 1, 4, accumulation_steps, remat)
        return estimate(candidate, step, None).floor

    mesh = (2, 1, 1, 4)
    step = steps[mesh]
    assert floor("full") <= floor("attention") <= floor("attention_block")
    assert floor("attention_block") < floor("dots") == floor("none")
    assert floor("dots", 4) < floor("dots", 1)


def test_the_fastest_that_leaves_spare_memory_is_first(config, topology, compiled):
    result = search(config, topology, budget=12, capacity=10.0)
    # `none` is faster, but needs 20 GiB; the others leave a sixteenth of 10.
    fits = [each for each in result.outcomes if each.has_spare]
    assert fits and {each.needed for each in fits} <= {5.0, 7.0, 9.0}
    fastest = min(each.roofline.seconds for each in fits)
    assert result.best.roofline.seconds == fastest and result.best.limit == "compute"
    assert [each.fits for each in result.outcomes] == sorted(
        (each.fits for each in result.outcomes), reverse=True
    )
    assert result.configured.candidate.remat == "none"
    assert not result.configured.fits and result.configured.limit == "memory"
    assert len(compiled) == len(set(compiled)) <= 12


def test_a_second_search_compiles_nothing(config, topology, compiled):
    first = search(config, topology, budget=5, capacity=11.0)
    assert compiled
    compiled.clear()
    second = search(config, topology, budget=5, capacity=11.0)
    assert not compiled and second.outcomes == first.outcomes
    other = dataclasses.replace(config, seed=1)
    search(other, topology, budget=1, capacity=11.0)
    assert len(compiled) == 1


def test_the_written_configuration_has_the_best_keys(
    config, topology, compiled, tmp_path
):
    result = search(config, topology, budget=6, capacity=12.0)
    path = tmp_path / "best.yaml"
    write_config(result, path)
    assert load(["--config", str(path)]) == result.best.candidate.applied(config)
    report = list(lines(result))
    assert max(map(len, report)) <= 100
    assert "more tokens/s" in "\n".join(report) or "do not fit" in "\n".join(report)


def test_nothing_fits(config, topology, compiled, capsys, tmp_path):
    path = tmp_path / "best.yaml"
    options = SimpleNamespace(budget=3, capacity=4.0, jobs=1, json=None, write=path)
    assert search_and_print(config, topology, options) == 3
    report = capsys.readouterr().out
    assert "nothing that was compiled fits" in report
    assert "what would fit: a larger topology" in report
    assert not path.exists()
