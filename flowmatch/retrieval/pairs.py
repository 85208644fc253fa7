"""Pairs of similar images of an index, to be matched."""

import torch.nn.functional as F

from flowmatch.matching.pair_list import Pair
from flowmatch.ops import nearest
from flowmatch.retrieval.index import Index


def similar_pairs(index: Index, count: int, *, similarity: float = -1.0) -> list[Pair]:
    """Return the pairs of each image of an index with its most similar others.

    Images whose descriptor is zero, because nothing in them could be described, are in no pair.

    Args:
        index: The index.
        count: Number of others for each image.
        similarity: Smallest cosine of the descriptors of a pair.

    Returns:
        Pairs of names, each once, however it was found; in the order of the index.

    Raises:
        ValueError: `count` is not positive, or fewer than two images are described.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from flowmatch.retrieval.index import Entry
        >>> entries = [Entry(name, 0, 0) for name in ("a.jpg", "b.jpg", "c.jpg")]
        >>> descriptors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> index = Index("a describer", Path("photos"), entries, descriptors)
        >>> [tuple(pair) for pair in similar_pairs(index, 1)]
        [('a.jpg', 'b.jpg'), ('b.jpg', 'c.jpg')]

    Reference:
        The pairs of hloc: Sarlin et al., From Coarse to Fine, CVPR 2019.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    described = index.descriptors.any(1).nonzero()[:, 0]
    if len(described) < 2:
        raise ValueError(f"pairs need two described images, the index has {len(described)}")
    descriptors = F.normalize(index.descriptors[described].float(), dim=1)
    k = min(count + 1, len(described))  # each is most similar to itself
    neighbours = nearest(descriptors, descriptors, k, "dot")
    index_of = neighbours.index.masked_fill(neighbours.distance < similarity, -1)
    names = [index.entries[i].name for i in described.tolist()]
    pairs: dict[tuple[int, int], None] = {}
    for first, others in enumerate(index_of.tolist()):
        found = [other for other in others if other not in (first, -1)][:count]
        pairs |= dict.fromkeys((min(first, other), max(first, other)) for other in found)
    return [Pair(names[first], names[second]) for first, second in sorted(pairs)]
