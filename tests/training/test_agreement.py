"""Flags of all hosts after the same step."""

from targetsft_jax.parallel import processes
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.training.agreement import StepAgreement


def test_a_single_process_sees_its_flags_at_once():
    agreement = StepAgreement(make_mesh(2, 2, 2))
    assert agreement.any_host([True, False]) == (True, False)
    assert agreement.any_host([False, False]) == (False, False)


def test_of_several_processes_each_sees_the_flags_of_the_step_before(monkeypatch):
    """One process that goes the way of several: a row of flags per device."""
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    agreement = StepAgreement(make_mesh(2, 2, 2))
    flags = [[False, True], [True, False], [False, False], [False, False]]
    results = [agreement.any_host(pair) for pair in flags]
    assert results == [(False, False), (False, True), (True, False), (False, False)]
