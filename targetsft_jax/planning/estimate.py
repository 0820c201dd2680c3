"""Memory and time of a candidate by arithmetic, before anything is compiled."""

from dataclasses import dataclass

from targetsft_jax.models.decoder import num_parameters
from targetsft_jax.parallel.mesh import row_shards
from targetsft_jax.planning.abstract_step import AbstractStep
from targetsft_jax.planning.activations import offloaded_bytes, saved_bytes
from targetsft_jax.planning.candidates import Candidate, group_size
from targetsft_jax.planning.chips import GIB, Chip
from targetsft_jax.planning.memory import argument_parts, gradient_bytes
from targetsft_jax.planning.plan import flops_of


@dataclass(frozen=True)
class Estimate:
    """Arithmetic about one candidate, per device.

    Attributes:
        floor: GiB that every compilation needs: arguments, gradients, and what the
            layers save.
        needed: GiB that are likely needed.
        executed: FLOPs per step, those of a plan.
        compute, ici, hbm, host: seconds per step; 0 if the rates are unknown.
    """

    floor: float
    needed: float
    executed: float
    compute: float = 0.0
    ici: float = 0.0
    hbm: float = 0.0
    host: float = 0.0

    @property
    def seconds(self) -> float:
        """Largest of the times."""
        return max(self.compute, self.ici, self.hbm, self.host)


def estimate(candidate: Candidate, step: AbstractStep, chip: Chip | None) -> Estimate:
    """Estimate a candidate.

    Args:
        candidate: keys.
        step: step of the candidate's mesh (`candidates.steps_by_mesh`).
        chip: rates; None: unknown.
    """
    spec, number = step.spec, candidate.accumulation_steps
    all_tokens = step.batch["tokens"].size
    per_device = all_tokens / step.mesh.size
    # Of a micro-batch, on the devices that share its rows' heads.
    tokens = per_device * candidate.tensor / number
    sizes = {"itemsize": spec.numerics.dtype.itemsize, "tensor": candidate.tensor}
    floor = _floor(candidate, step, tokens, sizes)
    kernel = step.kernel if candidate.attention == "auto" else candidate.attention
    flops = flops_of(step, candidate.remat, kernel)
    executed = flops.executed * per_device
    needed = floor + _working_set(candidate, step, tokens, kernel)
    if chip is None:
        return Estimate(floor, needed, executed)
    offloaded = offloaded_bytes(spec.student, candidate.remat, tokens, **sizes) * number
    saved = saved_bytes(spec.student, candidate.remat, tokens, **sizes) * number
    weights, gradients = _weight_traffic(candidate, step)
    scores = _score_bytes(candidate, step, tokens, kernel) * number
    return Estimate(
        floor,
        needed,
        executed,
        compute=chip.compute_seconds(executed, flops.int8 * per_device),
        ici=(number * (weights + gradients) + _activation_traffic(candidate, step))
        / chip.ici_bandwidth,
        hbm=2 * (number * weights + saved + scores) / chip.hbm_bandwidth,
        host=2 * offloaded / chip.host_bandwidth,
    )


def _floor(
    candidate: Candidate, step: AbstractStep, tokens: float, sizes: dict[str, int]
) -> float:
    """Return a lower bound of the memory in GiB."""
    arguments = sum(part.gib for part in argument_parts(step)) * GIB
    saved = saved_bytes(step.spec.student, candidate.remat, tokens, **sizes)
    if candidate.accumulation_steps > 1:
        # Their sum over micro-batches is kept while layers save.
        return (arguments + gradient_bytes(step, 4) + saved) / GIB
    gradients = gradient_bytes(step, step.spec.numerics.dtype.itemsize)
    return (arguments + max(gradients, saved)) / GIB


def _working_set(
    candidate: Candidate, step: AbstractStep, tokens: float, kernel: str
) -> float:
    """Estimate the arrays of one layer and of the loss, in GiB."""
    spec, itemsize = step.spec, step.spec.numerics.dtype.itemsize
    student = spec.student
    layer = _layer_weights(step, candidate) / student.num_layers
    widths = 6 * student.hidden_size + 6 * student.intermediate_size / candidate.tensor
    number = candidate.accumulation_steps
    group = candidate.vocab_group or group_size(step, number)
    columns = (spec.vocab_size or student.vocab_size) / candidate.tensor / group
    models = (student, *spec.frozen.values())
    heads = sum(model.hidden_size for model in models) * columns * itemsize
    heads += student.hidden_size * columns * 4 * (spec.lora is None)
    hidden = tokens * group * sum(model.hidden_size for model in models) * itemsize
    logits = 3 * spec.numerics.loss_chunk * columns * 4 * len(models)
    gradients = gradient_bytes(step, itemsize)
    beside = 0.0
    if candidate.remat == "none":
        # Norms, activations and products of the MLP are saved, too.
        beside = student.intermediate_size / candidate.tensor + 4 * student.hidden_size
        beside *= student.num_layers * tokens * itemsize
    scores = 0.0
    if kernel == "xla":
        scores = 2 * _score_bytes(candidate, step, tokens, kernel) / student.num_layers
    return (
        3 * layer
        + beside
        + max(gradients, heads + hidden + logits, tokens * widths * itemsize + scores)
    ) / GIB


def _layer_weights(step: AbstractStep, candidate: Candidate) -> float:
    """Return the bytes of all gathered layers of the student in the compute dtype."""
    return (
        _body(step.spec.student)
        * step.spec.numerics.dtype.itemsize
        / (candidate.tensor)
    )


def _body(config: object) -> float:
    """Return the number of parameters outside embedding and head."""
    tables = 1 if config.tie_word_embeddings else 2  # type: ignore[attr-defined]
    table = config.vocab_size * config.hidden_size  # type: ignore[attr-defined]
    return num_parameters(config) - tables * table  # type: ignore[arg-type]


def _weight_traffic(candidate: Candidate, step: AbstractStep) -> tuple[float, float]:
    """Return the bytes of weights and gradients that a micro-batch moves.

    Weights are gathered for the forward and the backward pass of the student, and for
    one pass of each frozen model; gradients are reduced over fsdp and context, then
    over data.
    """
    spec, tensor = step.spec, candidate.tensor
    shards = candidate.fsdp * candidate.context
    share = (shards - 1) / shards
    student, itemsize = _layer_weights(step, candidate), spec.numerics.dtype.itemsize
    frozen = sum(
        _body(model) * (1 if step.roles[name].int8 else itemsize) / tensor
        for name, model in spec.frozen.items()
    )
    trained = student if spec.lora is None else 0.0
    over_data = 2 * trained / shards * (candidate.data - 1) / candidate.data
    return share * (2 * student + frozen), share * trained + over_data


def _activation_traffic(candidate: Candidate, step: AbstractStep) -> float:
    """Return the bytes of activations that devices exchange per step.

    With tensor parallelism, two sums of hidden states per layer and pass; with context
    parallelism, keys and values per layer and pass. A pass back is two.
    """
    spec, tensor, context = step.spec, candidate.tensor, candidate.context
    tokens = step.batch["tokens"].size / row_shards(step.mesh)
    itemsize = spec.numerics.dtype.itemsize
    total = 0.0
    own = step.batch["tokens"].shape[-1]
    models = [(spec.student, 3.0)]
    models += [(m, step.row_length(r) / own) for r, m in spec.frozen.items()]
    for model, passes in models:
        layers = passes * model.num_layers * itemsize
        sums = 2 * 2 * (tensor - 1) / tensor * tokens / context * model.hidden_size
        keys = 2 * model.num_kv_heads * (model.head_dim or 0) / tensor
        total += layers * (sums + keys * tokens * (context - 1) / context)
    return total


def _score_bytes(
    candidate: Candidate, step: AbstractStep, tokens: float, kernel: str
) -> float:
    """Return the bytes of the scores of all layers that portable attention writes."""
    if kernel != "xla":
        return 0.0
    student, length = step.spec.student, step.batch["tokens"].shape[-1]
    heads = student.num_heads / candidate.tensor
    return student.num_layers * tokens / candidate.context * length * heads * 4
