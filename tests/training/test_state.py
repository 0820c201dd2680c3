"""The train state: shapes and shardings before it exists, and as plain trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig

from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.targets.policies import FROM_DATA, Snapshot, Trajectory
from targetsft_jax.training.state import (
    abstract_state,
    arrays_of,
    init_state,
    state_of,
    state_shardings,
)

POLICIES = [FROM_DATA, Snapshot(2), Trajectory(average=True)]


@pytest.fixture(params=POLICIES, ids=lambda policy: type(policy).__name__)
def states(request):
    """A state and its abstract shape, on eight devices."""
    mesh, policy = make_mesh(2, 2, 2), request.param
    optimizer = optax.adamw(1e-3)
    params = jax.tree.map(np.copy, rig.params_of(rig.STUDENT))
    shardings = state_shardings(rig.STUDENT, params, optimizer, mesh, policy=policy)
    abstract = abstract_state(params, optimizer, shardings, policy)
    return init_state(params, optimizer, shardings, policy), abstract


def test_the_abstract_state_is_that_of_the_state(states):
    def described(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)

    state, abstract = states
    assert described(abstract) == described(state)


def test_moments_and_policies_are_sharded_as_their_parameters(states):
    state, _ = states
    wanted = jax.tree.map(lambda x: x.sharding, state.params)
    for tree in (state.optimizer[0].mu, state.optimizer[0].nu, *state.held.values()):
        assert jax.tree.map(lambda x: x.sharding, tree) == wanted


def test_plain_trees_give_the_state_back(states):
    state, _ = states
    arrays = arrays_of(state)
    assert set(arrays) == {"params", "optimizer"}
    assert ("held" in arrays["optimizer"]) == bool(state.held)
    again = state_of(arrays)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    rig.assert_equal_trees(rig.host(again), rig.host(state))
    assert again.step.dtype == jnp.int32
