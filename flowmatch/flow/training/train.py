"""Training entry point for flow networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flowmatch import training
from flowmatch.flow.data.augment import Augmentation, AugmentedPairs, Mixture, ReusedPairs
from flowmatch.flow.data.clips import ClipPairs
from flowmatch.flow.data.datasets import find_pairs
from flowmatch.flow.full_resolution import to_full_resolution
from flowmatch.flow.networks import MODELS, RAFT, RAFTSmall
from flowmatch.flow.networks.flownet import CostVolume
from flowmatch.flow.networks.hypotheses import FlowChoice, GlobalMatch
from flowmatch.flow.networks.norms import fold_norms, insert_norms
from flowmatch.flow.synthetic.packing import PackedPlans, pack_plans
from flowmatch.flow.synthetic.pairs import SyntheticFlow, SyntheticPlans
from flowmatch.flow.synthetic.plan import Plan
from flowmatch.flow.synthetic.render import render_plans
from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.initial_flows import StartedSample, WithInitialFlows
from flowmatch.flow.training.losses import (
    LOSSES,
    Loss,
    choice_loss,
    global_matching_loss,
    matching_loss,
)
from flowmatch.flow.training.recipes import VIDEO, FlowRecipe
from flowmatch.flow.training.unsupervised import unsupervised_loss
from flowmatch.io import read_frames
from flowmatch.training import Run, RunOptions, data_digest
from flowmatch.zoo import load_initial_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

RENDERERS = ("workers", "device")
"""Places where synthetic pairs are rendered."""


def train_flow(
    recipe: FlowRecipe,
    sources: Sources,
    checkpoint: Path,
    *,
    data: Mapping[str, Path] | None = None,
    video: str | Path | None = None,
    start: dict[str, Tensor] | None = None,
    render: str = "workers",
    **options: "Unpack[RunOptions]",
) -> nn.Module:
    """Train a flow network on synthetic pairs, on datasets, or on a video.

    Args:
        recipe: Network, schedule, loss and data.
        sources: Sources of the textures of synthetic pairs.
        checkpoint: File of the training state.
        data: Folders of real datasets by name, such as ``{"chairs": Path("FlyingChairs")}``. A
            recipe that mixes datasets needs them by its names; for others, they are half of the
            pairs.
        video: Video of an unsupervised recipe.
        start: Initial weights, such as those of an earlier stage.
        render: Where synthetic pairs are rendered: in the ``"workers"``, or on the training
            ``"device"``, a batch at once, while workers only sample scenes. Pairs are then cheap,
            and `FlowRecipe.reuse` is ignored.
        **options: Options of the run, of `flowmatch.training.train`.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is NaN or infinite.
        ValueError: `checkpoint` belongs to another run, `start` to another network, the recipe's
            data is missing, or it has no synthetic pairs to `render` on a device.
    """
    samples = find_samples(recipe, sources, data or {}, video, render)
    facts = {"data_digest": _data_digest(sources, data or {}, video)}
    torch.manual_seed(recipe.seed)
    model = MODELS[recipe.model](**recipe.arguments)
    load_initial_weights(model, start, recipe.model, recipe.added)
    if recipe.norms:
        if start is not None:
            raise ValueError("this recipe trains a new network and takes no weights to start from")
        model = insert_norms(model)
    loss: Callable[..., tuple[Tensor, dict[str, float]]] = unsupervised_loss
    on_device = render == "device"
    with _passes(model, recipe.passes), _inner_losses(model, recipe) as inner:
        if recipe.loss != VIDEO:
            loss = partial(flow_loss, loss=LOSSES[recipe.loss], inner=inner)
        trained = training.train(
            model,
            samples,
            collate_plans if on_device else collate,
            partial(loss, weights=recipe.loss_weights),
            recipe.schedule,
            checkpoint=checkpoint,
            # Only a renderer other than the default, whose pairs differ, is part of the run's
            # identity.
            run=Run(recipe, facts | ({"render": render} if on_device else {})),
            prepare=render_batch if on_device else training.to_device,
            **options,
        )
    if recipe.kept and start is not None:
        _mix_in(trained, start, recipe)
    return fold_norms(trained) if recipe.norms else trained


@torch.no_grad()
def _mix_in(model: nn.Module, start: Mapping[str, Tensor], recipe: FlowRecipe) -> None:
    """Mix the initial weights into the trained ones, by their share in the recipe."""
    for key, tensor in model.state_dict().items():
        if not key.startswith(recipe.added):
            tensor.lerp_(start[key].to(tensor), recipe.kept)


def _data_digest(
    sources: Sources, data: Mapping[str, Path], video: str | Path | None
) -> dict[str, Any]:
    digests: dict[str, Any] = {
        "photos": data_digest(sources.photos),
        "cutouts": data_digest(sources.cutouts),
    }
    for name, folder in data.items():
        pairs = find_pairs(folder, train=True)
        digests[name] = data_digest(
            file for pair in pairs for file in (pair.first, pair.second, pair.flow)
        )
    if video is not None:
        digests["video"] = data_digest(read_frames(video).files)
    return digests


@contextmanager
def _passes(model: nn.Module, passes: int) -> Iterator[None]:
    """Set the number of RAFT's iterations within a context; 0 leaves it."""
    if not passes:
        yield
        return
    assert isinstance(model, RAFT | RAFTSmall)
    previous, model.iterations = model.iterations, passes
    try:
        yield
    finally:
        model.iterations = previous


@contextmanager
def _inner_losses(model: nn.Module, recipe: FlowRecipe) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function from the true flow to the losses of what layers returned last, in sum."""
    losses: list[Callable[[Tensor], Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, CostVolume) and recipe.matching:
            step = module.step
            losses.append(lambda truth: recipe.matching * matching_loss(output, truth, step))
        elif isinstance(module, GlobalMatch) and recipe.matching:
            one, two, sharp = inputs
            losses.append(
                lambda truth: recipe.matching * global_matching_loss(one, two, sharp, truth)
            )
        elif isinstance(module, FlowChoice) and recipe.choice:
            flows = [hypothesis.flow for hypothesis in inputs[0]]
            losses.append(lambda truth: recipe.choice * choice_loss(flows, output, truth))

    hooks = []
    for name, kinds in (("matching", CostVolume | GlobalMatch), ("choice", FlowChoice)):
        layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
        if getattr(recipe, name) and not layers:
            raise ValueError(f"{recipe.model} has no layer for the loss {name}")
        hooks += [layer.register_forward_hook(keep) for layer in layers]

    def total(truth: Tensor) -> Tensor:
        values = [loss(truth) for loss in losses]
        losses.clear()
        return sum(values, truth.new_zeros(()))

    try:
        yield total
    finally:
        for hook in hooks:
            hook.remove()


def find_samples(
    recipe: FlowRecipe,
    sources: Sources,
    data: Mapping[str, Path],
    video: str | Path | None,
    render: str = "workers",
) -> training.Samples:
    """Return the training samples of a recipe; all inputs are checked here.

    Args:
        recipe: The recipe.
        sources: Sources of the textures of synthetic pairs.
        data: Folders of real datasets by name.
        video: Video of an unsupervised recipe.
        render: Where synthetic pairs are rendered; with ``"device"``, they are plans.

    Raises:
        ValueError: An input is missing, or is given but not used by the recipe.
        FileNotFoundError: A folder is missing.
    """
    if render not in RENDERERS:
        raise ValueError(f"render must be one of {', '.join(RENDERERS)}, got {render!r}")
    has_synthetic = not recipe.mix and recipe.loss != VIDEO
    if render == "device" and not has_synthetic:
        raise ValueError("this recipe has no synthetic pairs to render on a device")
    if (sources.photos or sources.cutouts) and not has_synthetic:
        raise ValueError(
            "this recipe has no synthetic pairs, and takes no --photos and no --cutouts"
        )
    if recipe.loss == VIDEO:
        if video is None or data:
            raise ValueError("this recipe is trained on a video only: give --clip, and no --data")
        return ClipPairs.from_video(video, recipe.size, recipe.seed)
    if video is not None:
        raise ValueError("this recipe is trained on true flow, and takes no --clip")
    augmentation = recipe.augment()
    real = {
        name: AugmentedPairs(find_pairs(folder, train=True), augmentation, recipe.seed)
        for name, folder in data.items()
    }
    if recipe.mix:
        names = dict(recipe.mix).keys()
        if names != real.keys():
            raise ValueError(
                f"this recipe is trained on {', '.join(names)}: give each as --data NAME:FOLDER, "
                f"got {', '.join(real) or 'none'}"
            )
        return Mixture([(real[name], weight) for name, weight in recipe.mix], recipe.seed)
    synthetic = _synthetic(recipe, sources, render)
    if recipe.initial:
        if real or render == "device":
            raise ValueError("a recipe with initial flows is trained on pairs rendered by workers")
        model: Any = MODELS[recipe.model]
        return WithInitialFlows(synthetic, model.to_grid, seed=recipe.seed)
    if not real:
        return synthetic
    shares = [(pairs, 0.5 / len(real)) for pairs in real.values()]
    return Mixture([(synthetic, 0.5), *shares], recipe.seed)


def _synthetic(recipe: FlowRecipe, sources: Sources, render: str) -> training.Samples:
    pairs = SyntheticFlow(sources, recipe.size, recipe.motion, seed=recipe.seed)
    if render == "device":
        return SyntheticPlans(pairs)
    if recipe.reuse == 1:
        return pairs
    # Mirrored both ways, and without boxes, as the pairs have occlusions. Flow keeps its range.
    augmentation = Augmentation(
        recipe.size, scale=(0.0, 0.4), mirror=(0.5, 0.5), jitter=0.2, erase=0.0
    )
    return ReusedPairs(pairs, augmentation, recipe.reuse, seed=recipe.seed)


def collate(samples: Sequence[FlowSample | StartedSample]) -> list[Tensor]:
    """Return a batch: both images ``[B, 3, H, W]`` uint8 and the flow ``[B, 2, H, W]``.

    Initial flows, ``[B, 2, h, w]``, come last.
    """
    started = [sample for sample in samples if isinstance(sample, StartedSample)]
    if started:
        initial = torch.stack([sample.initial for sample in started])
        return [*collate([sample.pair for sample in started]), initial]
    return [
        torch.from_numpy(np.stack([getattr(sample, part) for sample in samples])).movedim(-1, 1)
        for part in ("first", "second", "flow")
    ]


def collate_plans(samples: Sequence[Plan | FlowSample]) -> tuple[PackedPlans | None, list[Tensor]]:
    """Return a batch of the plans, packed, and a batch of the rendered pairs (`collate`)."""
    plans = [sample for sample in samples if isinstance(sample, Plan)]
    pairs = [sample for sample in samples if isinstance(sample, FlowSample)]
    return pack_plans(plans) if plans else None, collate(pairs) if pairs else []


def render_batch(
    batch: tuple[PackedPlans | None, list[Tensor]], device: torch.device
) -> list[Tensor]:
    """Render the plans of a batch; return all pairs as `collate` does, on the device."""
    packed, pairs = batch
    parts = [[part.to(device) for part in pairs]] if pairs else []
    if packed is not None:
        parts.append(list(render_plans(packed, device)[:3]))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def flow_loss(
    model: nn.Module,
    batch: Sequence[Tensor],
    *,
    loss: Loss,
    weights: Sequence[float],
    inner: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Run the network on a batch; return its loss and the endpoint error of the finest flow.

    Args:
        model: A flow network.
        batch: Batch from `collate`, with initial flows if the network takes them.
        loss: One of `LOSSES`.
        weights: Weights of the network's flows.
        inner: Function from the true flow to a loss that is added.
    """
    first, second, truth, *initial = batch
    flows = model(first.float() / 255, second.float() / 255, *initial)
    with torch.no_grad():
        error = to_full_resolution(flows[0].float(), *truth.shape[-2:]) - truth
        epe = torch.linalg.vector_norm(error, dim=1).nanmean().item()
    value = loss(flows, truth, weights)
    return value if inner is None else value + inner(truth), {"epe": epe}
