"""Guard of gradients that have no derivative of their own."""

from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero


def first_order(tree: Any, function: str, alternative: str) -> Any:
    """The arrays of `tree` unchanged; to differentiate them is an error.

    For the inputs of a forward pass that computes gradients in closed form. A second
    derivative would take those gradients for constants, and be silently 0. The guard
    compiles to nothing.

    Args:
        tree: inputs of the forward pass.
        function: name of the differentiated function, for the error.
        alternative: the remedy, for the error.

    Raises:
        NotImplementedError: at trace time, where a derivative of the arrays is needed.
    """

    @jax.custom_jvp
    def guarded(leaves: list[Any]) -> list[Any]:
        return leaves

    def derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        (leaves,), (changes,) = primals, tangents
        if all(isinstance(change, SymbolicZero) for change in changes):
            return leaves, changes
        raise NotImplementedError(
            f"{function} has first derivatives only, and a derivative of its gradient "
            f"was requested; {alternative}"
        )

    guarded.defjvp(derivative, symbolic_zeros=True)
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, guarded(leaves))
